//! Pickles, which are programs: nothing is executed, nothing grows without limit, every value can be looked at.
#![no_main]

use ascribe::trajectory::pickle::{Pickle, Value};
use libfuzzer_sys::fuzz_target;

// Values may contain themselves, so the depth is ours to limit.
fn look(value: Value<'_>, depth: usize) {
    let _ = (value.kind(), value.as_i64(), value.as_f64(), value.as_str(), value.as_name(), value.global());
    if depth == 0 {
        return;
    }
    for (key, value) in value.entries().take(8) {
        look(key, depth - 1);
        look(value, depth - 1);
    }
    let parts = [value.elements(), value.arguments()].into_iter().flatten();
    parts.flat_map(|part| part.iter().take(8)).for_each(|part| look(part, depth - 1));
    [value.state(), value.persistent()].into_iter().flatten().for_each(|part| look(part, depth - 1));
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(pickle) = Pickle::read(bytes) {
        look(pickle.root(), 4);
    }
});
