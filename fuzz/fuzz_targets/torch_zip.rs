//! Files of `torch.save`: archives that lie about sizes and tensors that lie about places end in an error.
#![no_main]

use ascribe::trajectory::torch_zip::TorchFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("the file can be written");
    let Ok(mut torch) = TorchFile::open(file.path()) else { return };
    let places: Vec<_> = torch.value().entries().take(8).filter_map(|(_, value)| torch.tensor(value).ok()).collect();
    for place in places.iter().filter(|place| place.n_elements() < 1 << 20) {
        let _ = (torch.read_f32(place), torch.read_f64(place));
    }
});
