//! The store's own files: whatever a disk made of one, its header is checked before a tensor is borrowed.
#![no_main]

use ascribe::attribution::store::{Artifact, TensorFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("the file can be written");
    if let Ok(tensors) = TensorFile::open(file.path()) {
        for name in tensors.names() {
            let _ = (tensors.bytes(name), tensors.f32(name), tensors.f64(name), tensors.i64(name), tensors.u8(name));
        }
    }
    let _ = Artifact::open(file.path());
});
