//! Where a network runs: the processor or an NVIDIA GPU, as flags and `job.toml` name it.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::job::error::JobError;

/// Where the network runs forwards and backwards: `cpu`, `cuda` or `cuda:1`. Curvature, query vectors and scores are
/// computed from its taps on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceRequest {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number; the build needs the feature `cuda`.
    Cuda(usize),
}

impl DeviceRequest {
    /// Whether it is the processor, as when nothing is asked for.
    pub fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }

    /// The device itself.
    ///
    /// # Errors
    /// [`JobError::Device`] if this build or this machine has none.
    pub fn open(self) -> Result<Device, JobError> {
        let fails = |problem| JobError::Device { device: self.to_string(), problem };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(fails("this program was built without CUDA".to_owned())),
            Self::Cuda(number) => Device::new_cuda(number).map_err(|error| fails(error.to_string())),
        }
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for DeviceRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not the number of a GPU"));
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", text)) => Ok(Self::Cuda(number(text)?)),
            _ => Err(format!("no device `{text}`: `cpu`, `cuda` or `cuda:1`")),
        }
    }
}

impl TryFrom<String> for DeviceRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceRequest> for String {
    fn from(device: DeviceRequest) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, device) in
            [("cpu", DeviceRequest::Cpu), ("cuda:0", DeviceRequest::Cuda(0)), ("cuda:3", DeviceRequest::Cuda(3))]
        {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceRequest::Cuda(0)));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "cuda:x"] {
            assert!(bad.parse::<DeviceRequest>().is_err(), "{bad}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let error = DeviceRequest::Cuda(0).open().expect_err("no CUDA in this build");
        assert_eq!(error.to_string(), "`cuda:0` cannot be used: this program was built without CUDA");
        assert!(error.hint().is_some_and(|hint| hint.contains("--features cuda")));
    }
}
