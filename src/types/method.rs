//! Request methods.

use std::fmt;
use std::str::FromStr;

/// A request method (RFC 9110 §9.1): a token, and as methods are case-sensitive, in capitals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Method(http::Method);

/// Text that is no [`Method`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// Small letters.
    #[error("`{0}` is no method: methods are case-sensitive, did you mean `{upper}`?", upper = .0.to_uppercase())]
    LowerCase(String),
    /// No token.
    #[error("`{0}` is no method: write one such as GET")]
    Malformed(String),
}

impl Method {
    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// As the `http` crate has it.
    #[must_use]
    pub fn as_http(&self) -> &http::Method {
        &self.0
    }
}

impl From<http::Method> for Method {
    fn from(method: http::Method) -> Self {
        Self(method)
    }
}

/// GET.
impl Default for Method {
    fn default() -> Self {
        Self(http::Method::GET)
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(_) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => Err(MethodError::LowerCase(text.to_owned())),
            Ok(method) => Ok(Self(method)),
            Err(_) => Err(MethodError::Malformed(text.to_owned())),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

super::from_text!(Method, "Method", "a request method such as GET", "pattern": "^[!#$%&'*+.^_`|~0-9A-Z-]+$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_in_capitals() {
        assert_eq!("PROPFIND".parse::<Method>().unwrap().as_str(), "PROPFIND");
        assert_eq!(
            "get".parse::<Method>().unwrap_err().to_string(),
            "`get` is no method: methods are case-sensitive, did you mean `GET`?"
        );
        assert!("".parse::<Method>().is_err());
        assert!("G T".parse::<Method>().is_err());
    }
}
