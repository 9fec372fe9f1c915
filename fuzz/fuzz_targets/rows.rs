//! Rows of numbers from safetensors bytes: any bytes are a dataset or one error.
#![no_main]

use std::path::Path;

use ascribe::data::{ImageSize, RowLimits, RowShape, Task, read_rows_from};
use libfuzzer_sys::fuzz_target;

// The first byte chooses the model.
fuzz_target!(|bytes: &[u8]| {
    let Some((choice, file)) = bytes.split_first() else { return };
    let task = if choice & 1 == 0 { Task::Classification } else { Task::Regression };
    let size = 1 + usize::from(choice >> 4);
    let inputs = match choice >> 1 & 3 {
        0 => RowShape::Image { channels: size, size: ImageSize::Any },
        1 => RowShape::Image { channels: 1, size: ImageSize::Exactly { height: size, width: 2, positions: 3 } },
        _ => RowShape::Numbers(size),
    };
    let limits = RowLimits { inputs, outputs: 1 + usize::from(choice >> 1 & 7), task };
    if let Ok((dataset, report)) = read_rows_from(file, Path::new("fuzz.safetensors"), limits) {
        assert_eq!(dataset.len(), report.examples);
        for row in 0..dataset.len().min(3) {
            let _ = (dataset.excerpt(row, 80), dataset.metadata(row));
        }
    }
});
