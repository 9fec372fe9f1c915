//! Versions of transformers, on which some of its conventions depend.

/// A version of transformers, as `config.json` records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransformersVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl TransformersVersion {
    /// Reads `5.23.0`, `4.51.0.dev0` and the like; patch releases changed nothing that matters here.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }

    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl std::fmt::Display for TransformersVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_numbers() {
        let v = |text| TransformersVersion::parse(text).unwrap();
        assert!(v("4.9.2") < v("4.51.0.dev0") && v("4.51.3") < v("5.0.0rc1"));
        assert_eq!(v("5.23.0"), TransformersVersion::new(5, 23));
        assert_eq!(TransformersVersion::parse("five"), None);
        assert_eq!(TransformersVersion::parse("5"), None);
    }
}
