//! Words of the configuration and of HTTP: types whose existence proves validity. No Pingora, no I/O.
//!
//! Each parses from text ([`std::str::FromStr`]) with an error that says what would be right, and prints as it is written.

mod address;
mod byterate;
mod bytesize;
mod cidr;
mod count;
mod delay;
mod dns_name;
mod domain;
mod duration;
mod email;
pub mod forwarded;
mod header;
mod host;
mod limit;
mod method;
mod mode;
mod name;
mod nameserver;
pub mod path;
mod path_regex;
mod percent;
mod rate;
mod regex;
mod request_target;
mod secret;
mod status;
mod status_range;
mod template;
mod token;
mod url;
mod watched;
mod word_or;

pub use self::address::{Address, AddressError, ListenAddress, ListenAddressError};
pub use self::byterate::{ByteRate, ByteRateError};
pub use self::bytesize::{ByteSize, ByteSizeError};
pub use self::cidr::{Cidr, CidrError};
pub use self::count::{Count, CountError};
pub use self::delay::{Delay, DelayError};
pub use self::dns_name::{DnsName, DnsNameError};
pub use self::domain::{Domain, DomainError};
pub use self::duration::{Duration, DurationError};
pub use self::email::{Email, EmailError};
pub use self::header::{HeaderName, HeaderNameError};
pub(crate) use self::header::{carries_a_secret, without_secrets};
pub use self::host::{Authority, AuthorityError, HostError, HostPattern, HostPatternError, normalise as normalise_host};
pub use self::limit::Limit;
pub use self::method::{Method, MethodError};
pub use self::mode::{FileMode, FileModeError};
pub use self::name::{Name, NameError};
pub use self::nameserver::{Nameserver, NameserverError};
pub use self::path::{PathError, PathPattern, PathPatternError};
pub(crate) use self::path_regex::unmet;
pub use self::percent::{Percent, PercentError};
pub use self::rate::{Rate, RateError};
pub use self::regex::{Regex, RegexError};
pub use self::request_target::{RequestTarget, RequestTargetError};
pub use self::secret::{Secret, SecretError};
pub use self::status::{Status, StatusError};
pub use self::status_range::{StatusRange, StatusRangeError};
pub use self::template::{LogTemplate, LogTemplateError, Phase, Piece, Template, TemplateError, Values, Variable};
pub(crate) use self::token::is_token;
pub use self::token::{Token, TokenError};
pub use self::url::{Url, UrlError};
pub use self::watched::Watched;
pub use self::word_or::WordOr;

/// `Deserialize` from text, and a JSON Schema that says what text.
macro_rules! from_text {
    ($type:ident, $name:literal, $expecting:literal $(, $keyword:literal: $value:expr)*) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "description": $expecting $(, $keyword: $value)*})
            }
        }
    };
}
use from_text;
