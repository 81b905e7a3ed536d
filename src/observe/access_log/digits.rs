//! Numbers in digits. The formatting machinery of the standard library would cost more than all else in a line.

use std::net::IpAddr;

/// What a line is made in.
pub(super) trait Line {
    /// Appends digits and the like: ASCII.
    fn ascii(&mut self, text: &[u8]);
}

impl Line for String {
    fn ascii(&mut self, text: &[u8]) {
        self.push_str(std::str::from_utf8(text).unwrap_or_default());
    }
}

impl Line for Vec<u8> {
    fn ascii(&mut self, text: &[u8]) {
        self.extend_from_slice(text);
    }
}

/// Appends a number.
pub(super) fn decimal(mut number: u64, out: &mut impl Line) {
    // The longest has twenty digits.
    let mut digits = [b'0'; 20];
    let mut first = digits.len() - 1;
    loop {
        digits[first] = digit(number % 10);
        number /= 10;
        if number == 0 {
            break;
        }
        first -= 1;
    }
    out.ascii(&digits[first..]);
}

/// Appends the last three digits of a number.
pub(super) fn thousandths(number: u64, out: &mut impl Line) {
    out.ascii(&[digit(number / 100 % 10), digit(number / 10 % 10), digit(number % 10)]);
}

/// Appends 32 hexadecimal digits.
pub(super) fn hexadecimal(number: u128, out: &mut impl Line) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    out.ascii(&digits);
}

/// Appends an address.
pub(super) fn address(ip: IpAddr, out: &mut impl Line) {
    match ip {
        IpAddr::V4(ip) => {
            let mut text = [b'.'; 15];
            let mut end = 0;
            for octet in ip.octets() {
                let places = 1 + usize::from(octet >= 10) + usize::from(octet >= 100);
                let mut left = octet;
                for place in text[end..end + places].iter_mut().rev() {
                    *place = b'0' + left % 10;
                    left /= 10;
                }
                end += places + 1;
            }
            out.ascii(&text[..end - 1]);
        }
        IpAddr::V6(ip) => out.ascii(ip.to_string().as_bytes()),
    }
}

/// Of a number below ten.
fn digit(number: u64) -> u8 {
    b'0' + u8::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl Fn(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    proptest! {
        #[test]
        fn as_the_standard_library_writes_them(number in any::<u64>(), small in 0_u64..1000, large in any::<u128>(), ip in any::<IpAddr>()) {
            prop_assert_eq!(written(|out| decimal(number, out)), number.to_string());
            prop_assert_eq!(written(|out| decimal(small, out)), small.to_string());
            prop_assert_eq!(written(|out| thousandths(number, out)), format!("{:03}", number % 1000));
            prop_assert_eq!(written(|out| hexadecimal(large, out)), format!("{large:032x}"));
            prop_assert_eq!(written(|out| address(ip, out)), ip.to_string());
        }
    }
}
