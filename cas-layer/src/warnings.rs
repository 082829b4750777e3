//! Warnings about one layer or archive.

use cas_core::limit;

/// A list of different warnings: the first [`limit::WARNINGS`], and the number of further warnings.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    kept: Vec<String>,
    left_out: u64,
}

impl Warnings {
    /// Adds a warning, unless the list has it already. If the list is full, only counts the
    /// warning, even if the same warning was counted before.
    pub fn add(&mut self, warning: &str) {
        if self.kept.iter().any(|known| known == warning) {
            return;
        }
        match self.kept.len() < limit::WARNINGS {
            true => self.kept.push(warning.to_owned()),
            false => self.left_out += 1,
        }
    }

    /// Returns the warnings. If others were left out, the last warning states their number.
    pub fn list(&self) -> Vec<String> {
        let mut list = self.kept.clone();
        if self.left_out > 0 {
            list.push(format!("further warnings left out: {}", self.left_out));
        }
        list
    }
}
