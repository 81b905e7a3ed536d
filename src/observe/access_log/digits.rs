//! Numbers in digits. The formatting machinery of the standard library would cost more than all else in a line.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Appends a number.
pub(super) fn decimal(mut number: u64, out: &mut String) {
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
    push(&digits[first..], out);
}

/// Appends the last three digits of a number.
pub(super) fn thousandths(number: u64, out: &mut String) {
    push(&[digit(number / 100 % 10), digit(number / 10 % 10), digit(number % 10)], out);
}

/// Appends 32 hexadecimal digits.
pub(super) fn hexadecimal(number: u128, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    push(&digits, out);
}

/// Appends an address.
pub(super) fn address(ip: IpAddr, out: &mut String) {
    match ip {
        IpAddr::V4(ip) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push('.');
                }
                decimal(octet.into(), out);
            }
        }
        IpAddr::V6(ip) => {
            // Writing to a String can't fail.
            let _ = write!(out, "{ip}");
        }
    }
}

/// Of a number below ten.
fn digit(number: u64) -> u8 {
    b'0' + u8::try_from(number).unwrap_or(0)
}

fn push(digits: &[u8], out: &mut String) {
    out.push_str(std::str::from_utf8(digits).unwrap_or_default());
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
