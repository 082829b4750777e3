//! The peak memory of this process.

use cas_core::{Context, Error, Result};

const RESET: &str = "/proc/self/clear_refs";
const STATUS: &str = "/proc/self/status";

/// A measurement of the peak growth of the resident set.
pub(crate) struct Peak {
    before: u64,
}

impl Peak {
    /// Resets the peak. Returns a measurement that begins now.
    pub(crate) fn begin() -> Result<Self> {
        std::fs::write(RESET, "5").during("reset the peak memory in", RESET)?;
        Ok(Peak {
            before: field("VmRSS:")?,
        })
    }

    /// Returns in MiB how far the peak is above the memory at the beginning.
    pub(crate) fn end(self) -> Result<f64> {
        let bytes = field("VmHWM:")?.saturating_sub(self.before);
        Ok(bytes as f64 / f64::from(1 << 20))
    }
}

/// Returns the value of a field of [`STATUS`], in bytes.
fn field(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(STATUS).during("read", STATUS)?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| {
        Error::unsupported(format!(
            "{STATUS} does not state {name:?} in kB; use a kernel that reports this value"
        ))
    })
}
