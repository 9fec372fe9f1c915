//! `job.toml`: any text is a job or one error, and a job's own text reads back as the same job.
#![no_main]

use ascribe::job::Job;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("the file can be written");
    let Ok(job) = Job::read(file.path()) else { return };
    std::fs::write(file.path(), job.to_toml()).expect("the file can be written");
    assert_eq!(Job::read(file.path()).expect("our own text"), job);
});
