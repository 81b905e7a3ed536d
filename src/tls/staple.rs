//! An OCSP response that is handed out with a certificate (RFC 6960 §4.2): what it is about, and for how long it is of use. Its signature is
//! for clients to check.

use std::time::{Duration, SystemTime};

use x509_parser::der_parser::ber::BerObjectContent;
use x509_parser::der_parser::der::{DerObject, parse_der};

/// `id-pkix-ocsp-basic`.
const BASIC: &str = "1.3.6.1.5.5.7.48.1.1";

/// What a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staple {
    /// The serial number of each certificate that it is about, and what of it.
    about: Vec<(Vec<u8>, Status)>,
    /// Until when it is of use; `None`: it doesn't say.
    pub(super) until: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Good,
    Revoked,
    Unknown,
}

impl Staple {
    /// Reads a response. `None`: this is none, or one that says nothing of any certificate.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let response = whole(bytes)?;
        let [status, inner] = &response.as_sequence().ok()?[..] else { return None };
        // 0: successful.
        if !matches!(status.content, BerObjectContent::Enum(0)) {
            return None;
        }
        let inner = whole(content(inner)?)?;
        let [kind, basic] = &inner.as_sequence().ok()?[..] else { return None };
        if kind.as_oid().ok()?.to_id_string() != BASIC {
            return None;
        }
        let basic = whole(basic.as_slice().ok()?)?;
        let data = basic.as_sequence().ok()?.first()?.as_sequence().ok()?;
        // Before these stand the version and who responds, in tags of their own, and a time.
        let responses = data.iter().find_map(|part| part.as_sequence().ok())?;
        let mut staple = Self { about: Vec::new(), until: None };
        for single in responses {
            let [about, status, _from, rest @ ..] = &single.as_sequence().ok()?[..] else { return None };
            let [.., serial] = &about.as_sequence().ok()?[..] else { return None };
            let status = match status.header.tag().0 {
                0 => Status::Good,
                1 => Status::Revoked,
                _ => Status::Unknown,
            };
            staple.about.push((serial.as_slice().ok()?.to_vec(), status));
            let until = match rest.iter().find(|part| part.header.tag().0 == 0) {
                Some(until) => Some(time(&whole(content(until)?)?)?),
                None => None,
            };
            staple.until = staple.until.into_iter().chain(until).min();
        }
        (!staple.about.is_empty()).then_some(staple)
    }

    /// What keeps it from being handed out with the certificate of this serial number.
    pub(super) fn flaw(&self, serial: &[u8], now: SystemTime) -> Option<&'static str> {
        match self.about.iter().find(|(about, _)| about == serial) {
            None => return Some("is about another certificate"),
            Some((_, Status::Revoked)) => return Some("says that the certificate has been revoked"),
            Some((_, Status::Unknown)) => return Some("says that the certificate is not known"),
            Some((_, Status::Good)) => {}
        }
        self.until.is_some_and(|until| until <= now).then_some("is out of date")
    }
}

/// One object and nothing behind it.
fn whole(bytes: &[u8]) -> Option<DerObject<'_>> {
    parse_der(bytes).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, object)| object)
}

/// What is in a tag that is explicit.
fn content<'a>(object: &DerObject<'a>) -> Option<&'a [u8]> {
    match &object.content {
        BerObjectContent::Unknown(any) => Some(any.data),
        _ => None,
    }
}

fn time(object: &DerObject<'_>) -> Option<SystemTime> {
    let BerObjectContent::GeneralizedTime(time) = &object.content else { return None };
    let seconds = time.to_datetime().ok()?.unix_timestamp();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let all = parts.concat();
        let length = u8::try_from(all.len()).unwrap();
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, all].concat()
    }

    fn response(serial: &[u8], status: u8, until: &str) -> Vec<u8> {
        let about = der(0x30, &[&der(0x30, &[&der(6, &[&[0x2b]])]), &der(4, &[b"name"]), &der(4, &[b"key"]), &der(2, &[serial])]);
        let status = if status == 1 { der(0xa1, &[&der(0x18, &[b"20200101000000Z"])]) } else { vec![0x80 | status, 0] };
        let until = if until.is_empty() { Vec::new() } else { der(0xa0, &[&der(0x18, &[until.as_bytes()])]) };
        let single = der(0x30, &[&about, &status, &der(0x18, &[b"20200101000000Z"]), &until]);
        let data = der(0x30, &[&der(0xa2, &[&der(4, &[b"us"])]), &der(0x18, &[b"20200101000000Z"]), &der(0x30, &[&single])]);
        let basic = der(0x30, &[&data, &der(0x30, &[]), &der(3, &[&[0, 1]])]);
        let inner = der(0x30, &[&der(6, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]), &der(4, &[&basic])]);
        der(0x30, &[&der(10, &[&[0]]), &der(0xa0, &[&inner])])
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_about_one_certificate_and_for_a_time() {
        let staple = Staple::read(&response(&[7, 8], 0, "20300101000000Z")).unwrap();
        assert_eq!(staple.until, Some(at(1_893_456_000)));
        assert_eq!(staple.flaw(&[7, 8], at(1_893_455_999)), None);
        assert_eq!(staple.flaw(&[7, 8], at(1_893_456_000)), Some("is out of date"));
        assert_eq!(staple.flaw(&[7, 9], at(0)), Some("is about another certificate"));
        assert_eq!(Staple::read(&response(&[7], 0, "")).unwrap().flaw(&[7], at(u64::from(u32::MAX))), None);
        let told = |status| Staple::read(&response(&[7], status, "")).unwrap().flaw(&[7], at(0));
        assert_eq!(told(1), Some("says that the certificate has been revoked"));
        assert_eq!(told(2), Some("says that the certificate is not known"));
    }

    #[test]
    fn what_is_no_response_is_none() {
        let whole = response(&[7], 0, "20300101000000Z");
        for cut in 0..whole.len() {
            assert_eq!(Staple::read(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(Staple::read(&[&whole[..], b"x"].concat()), None);
        // One that says `tryLater`.
        assert_eq!(Staple::read(&[0x30, 3, 10, 1, 3]), None);
        assert_eq!(Staple::read(b"{\"a\": 1}"), None);
    }
}
