//! File modes.

use std::fmt;
use std::str::FromStr;

/// A file mode in octal, such as `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

/// Text that is no [`FileMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no file mode: write octal digits, such as \"0660\"")]
pub struct FileModeError(String);

impl FileMode {
    /// The mode's bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = FileModeError;

    fn from_str(text: &str) -> Result<Self, FileModeError> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && bits <= 0o777 => Ok(Self(bits)),
            _ => Err(FileModeError(text.to_owned())),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

super::from_text!(FileMode, "FileMode", "a file mode in octal, such as \"0660\"", "pattern": "^0?[0-7]{3}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!("0660".parse::<FileMode>().unwrap().bits(), 0o660);
        assert_eq!("600".parse::<FileMode>().unwrap().to_string(), "0600");
        for bad in ["", "66", "0999", "1777", "rw-r--r--", "+660"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad}");
        }
    }
}
