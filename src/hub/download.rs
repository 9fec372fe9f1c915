//! One file from the hub into the cache, in parts if it is interrupted.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::cache::{Cached, failed, folder_of};
use super::client::{Client, RemoteFile};
use super::error::HubError;

/// A download that ends early is taken up so often.
const TRIES: usize = 4;

/// Fetches a file's contents into the blobs, unless they are there. `advanced` hears how many bytes there are.
pub(super) fn download(
    (client, name): (&Client<'_>, &str),
    cached: &Cached,
    (commit, file, remote): (&str, &str, &RemoteFile),
    advanced: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let blob = cached.blob(&remote.blob);
    if has_size(&blob, remote.size) {
        return Ok(());
    }
    folder_of(&blob)?;
    // the name under which `huggingface_hub` keeps an unfinished download
    let part = cached.blob(&format!("{}.incomplete", remote.blob));
    let opened = OpenOptions::new().create(true).read(true).append(true).open(&part);
    let mut out = opened.map_err(failed(&part, "cannot be written"))?;
    match out.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(HubError::Busy { file: part }),
        Err(TryLockError::Error(error)) => return Err(failed(&part, "cannot be locked")(error)),
    }
    let length = |out: &File| out.metadata().map(|found| found.len()).map_err(failed(&part, "cannot be looked at"));
    let empty = |out: &File| out.set_len(0).map_err(failed(&part, "cannot be written"));
    for attempt in 1.. {
        let mut there = length(&out)?;
        if there > remote.size {
            empty(&out)?;
            there = 0;
        }
        if there == remote.size {
            break;
        }
        let mut response = match client.file(commit, file, there, remote.size - there) {
            Err(error @ HubError::Unreachable { .. }) if attempt == TRIES || there == 0 => return Err(error),
            Err(HubError::Unreachable { .. }) => continue,
            other => other?,
        };
        let is_part = response.status() == 206;
        let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
        if is_part && !range.is_some_and(|range| range.starts_with(&format!("bytes {there}-"))) {
            return Err(client.answer(format!("gives another part of `{file}` than was asked for")));
        }
        client.check(&response, || format!("file `{file}`"))?;
        if !is_part {
            empty(&out)?;
            there = 0;
        }
        let (mut body, mut buffer) = (response.body_mut().as_reader(), vec![0; 1 << 20]);
        // an error of the connection is an early end
        while let Ok(count @ 1..) = body.read(&mut buffer) {
            there += count as u64;
            if there > remote.size {
                drop(std::fs::remove_file(&part));
                return Err(client.answer(format!("gives more of `{file}` than the {} bytes that it has", remote.size)));
            }
            out.write_all(&buffer[..count]).map_err(failed(&part, "cannot be written"))?;
            advanced(there);
        }
        if there < remote.size && attempt == TRIES {
            let (name, file) = (name.to_owned(), file.to_owned());
            return Err(HubError::Cut { name, file, found: there, size: remote.size });
        }
    }
    if remote.is_sha256 && sha256(&mut out).map_err(failed(&part, "cannot be read"))? != remote.blob {
        drop(std::fs::remove_file(&part));
        return Err(HubError::Damaged { name: name.to_owned(), file: file.to_owned(), expected: remote.blob.clone() });
    }
    std::fs::rename(&part, &blob).map_err(failed(&blob, "cannot be written"))
}

/// Whether a file is there and has this size.
pub(super) fn has_size(file: &Path, size: u64) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() == size)
}

fn sha256(file: &mut File) -> std::io::Result<String> {
    file.rewind()?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
