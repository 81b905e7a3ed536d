//! The cookie that keeps a client at its endpoint.
//!
//! It holds the endpoint's id and the time when it was made, sealed (XChaCha20-Poly1305) with a key that is derived from the file's: so it
//! tells nobody who the endpoints are, or even whether two clients are at the same one, and nobody can make or change one. The name of
//! the upstream is sealed along, so that a cookie is worth nothing at another. All cookies are of one length. What can't be opened, or is
//! too old, is as none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::config::Sticky;
use crate::types::Token;

const NONCE: usize = 24;
/// An endpoint's id and a time.
const PLAIN: usize = 16;
const TAG: usize = 16;
/// What a cookie is as text, exactly.
const TEXT: usize = ((NONCE + PLAIN + TAG) * 4).div_ceil(3);
/// A clock that is behind the one by which a cookie was made, by so much, does no harm.
const SKEW: Duration = Duration::from_secs(60);

/// Makes and opens the cookies of an upstream.
pub(crate) struct Seal {
    cookie: Token,
    ttl: Duration,
    cipher: XChaCha20Poly1305,
    upstream: Box<[u8]>,
}

/// What a cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stay {
    /// The id of the endpoint.
    pub(crate) at: u64,
    /// More than half of its time is over: it is made anew.
    pub(crate) ages: bool,
}

impl Seal {
    pub(super) fn new(upstream: &str, settings: &Sticky) -> Self {
        let mut key = [0; 32];
        // It refuses only lengths that are far beyond this one.
        let _ = Hkdf::<Sha256>::new(None, settings.key.value.expose().as_bytes()).expand(b"ravelin sticky cookie 1", &mut key);
        let cipher = XChaCha20Poly1305::new(&key.into());
        Self { cookie: settings.cookie.clone(), ttl: settings.ttl.get(), cipher, upstream: upstream.as_bytes().into() }
    }

    /// The cookie's name.
    pub(crate) fn name(&self) -> &str {
        self.cookie.as_str()
    }

    /// What a cookie says, if it is one of ours.
    pub(crate) fn open(&self, value: &str, now: SystemTime) -> Option<Stay> {
        if value.len() != TEXT {
            return None;
        }
        let mut sealed = [0; NONCE + PLAIN + TAG];
        URL_SAFE_NO_PAD.decode_slice(value, &mut sealed).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: sealed, aad: &self.upstream };
        let plain = self.cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
        let (at, made) = plain.split_first_chunk::<8>()?;
        let made = Duration::from_secs(u64::from_be_bytes(*made.first_chunk()?));
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let age = now.checked_sub(made).or_else(|| (made <= now + SKEW).then_some(Duration::ZERO))?;
        (age < self.ttl).then(|| Stay { at: u64::from_be_bytes(*at), ages: age > self.ttl / 2 })
    }

    /// The cookie for a client at this endpoint, as `Set-Cookie` says it. `secure`: the client came over TLS.
    /// `None`: the system has no random bytes, without which none is made.
    pub(super) fn cookie(&self, at: u64, now: SystemTime, secure: bool) -> Option<String> {
        let mut nonce = [0; NONCE];
        let filled = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty());
        if filled.ok()? != NONCE {
            return None;
        }
        let value = self.sealed(at, now, nonce);
        let (name, age, secure) = (self.cookie.as_str(), self.ttl.as_secs().max(1), if secure { "; Secure" } else { "" });
        Some(format!("{name}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Lax{secure}"))
    }

    fn sealed(&self, at: u64, now: SystemTime, nonce: [u8; NONCE]) -> String {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut plain = [0; PLAIN];
        plain[..8].copy_from_slice(&at.to_be_bytes());
        plain[8..].copy_from_slice(&now.to_be_bytes());
        let payload = Payload { msg: &plain, aad: &self.upstream };
        let mut bytes = nonce.to_vec();
        // It refuses only what is far longer.
        bytes.extend(self.cipher.encrypt(&XNonce::from(nonce), payload).unwrap_or_default());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::testing::decoded;

    fn seal(upstream: &str, key: &str) -> Seal {
        Seal::new(upstream, &decoded(&format!("{{cookie: lb, key: {key}, ttl: 1h}}")).unwrap())
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn value(cookie: &str) -> &str {
        cookie.strip_prefix("lb=").unwrap().split(';').next().unwrap()
    }

    #[test]
    fn what_was_sealed_is_opened_by_every_process_with_the_key() {
        let cookie = seal("api", "correct horse").cookie(7, at(0), false).unwrap();
        let open = |seconds| seal("api", "correct horse").open(value(&cookie), at(seconds));
        assert_eq!(open(1), Some(Stay { at: 7, ages: false }));
        assert_eq!(open(1_801), Some(Stay { at: 7, ages: true }));
        assert_eq!(open(3_600), None, "it is over");
        assert_eq!(seal("api", "correct horse").open(value(&cookie), at(0) - Duration::from_secs(30)).unwrap().at, 7);
        assert_eq!(seal("api", "correct horse").open(value(&cookie), at(0) - Duration::from_secs(90)), None, "of the future");
    }

    #[test]
    fn what_others_sealed_is_as_none() {
        let cookie = seal("api", "correct horse").cookie(7, at(0), false).unwrap();
        assert_eq!(seal("api", "battery staple").open(value(&cookie), at(1)), None);
        assert_eq!(seal("web", "correct horse").open(value(&cookie), at(1)), None);
    }

    #[test]
    fn attributes() {
        let cookie = seal("api", "correct horse").cookie(7, at(0), true).unwrap();
        assert!(cookie.ends_with("; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
        assert!(!seal("api", "correct horse").cookie(7, at(0), false).unwrap().contains("Secure"));
    }

    #[test]
    fn a_cookie_tells_nothing_of_its_endpoint() {
        let seal = seal("api", "correct horse");
        let cookies: Vec<String> = [7, 7, u64::MAX].map(|id| seal.cookie(id, at(0), false).unwrap()).into();
        assert!(cookies.iter().all(|cookie| value(cookie).len() == TEXT));
        assert_ne!(cookies[0], cookies[1], "two clients at one endpoint");
        let decoded = URL_SAFE_NO_PAD.decode(value(&cookies[0])).unwrap();
        assert!(!decoded.windows(8).any(|window| window == 7_u64.to_be_bytes()));
    }

    proptest! {
        #[test]
        fn nothing_that_was_touched_is_opened(id in any::<u64>(), place in any::<prop::sample::Index>(), by in 1_u8..64) {
            let seal = seal("api", "correct horse");
            let sealed = seal.sealed(id, at(0), [5; NONCE]);
            prop_assert_eq!(seal.open(&sealed, at(0)), Some(Stay { at: id, ages: false }));
            const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut bytes = sealed.into_bytes();
            let place = place.index(bytes.len());
            let letter = LETTERS.iter().position(|letter| *letter == bytes[place]).unwrap();
            bytes[place] = LETTERS[(letter + usize::from(by)) % 64];
            prop_assert_eq!(seal.open(std::str::from_utf8(&bytes).unwrap(), at(0)), None);
        }

        #[test]
        fn whatever_comes_is_looked_at(value in ".{0,100}") {
            prop_assert_eq!(seal("api", "correct horse").open(&value, at(0)), None);
        }
    }
}
