//! How much memory the machine has.

use std::path::{Path, PathBuf};

/// What a job may use if it is not told: 80 % of the machine's memory, or of what its control groups allow. Of the
/// whole, not of what is free, so that equal machines choose alike. None where the system does not say.
pub fn default_budget() -> Option<u64> {
    let mut least = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    for limit in control_group_files(Path::new("/sys/fs/cgroup")) {
        let found = std::fs::read_to_string(limit).ok().and_then(|text| text.trim().parse::<u64>().ok());
        least = [least, found].into_iter().flatten().min();
    }
    least.map(|bytes| bytes / 10 * 8)
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Files that hold limits of this process's control groups, version 2 and 1, and of all groups above them. One
/// without a limit says `max`, or a number beyond any machine.
fn control_group_files(root: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // inside a container the path is that outside of it, and the group's files lie at the root
        let inner = Path::new(path.trim_start_matches('/'));
        files.extend(inner.ancestors().map(|group| root.join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_kilobytes() {
        assert_eq!(total("MemTotal:       24609488 kB\nMemFree:  1 kB\n"), Some(24_609_488 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: lots kB"), None);
    }
}
