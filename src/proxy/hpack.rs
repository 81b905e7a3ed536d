//! Header blocks of HTTP/2 (RFC 7541), read along beside the h2 crate: it drops pseudo-fields that an answer must not have, and tells
//! nobody. As much is followed as it takes to know names that begin with a colon, and the status.
//!
//! Values are not decoded but for their length, which the size of the dynamic table goes by.

use std::collections::VecDeque;

/// The size of the dynamic table that an endpoint may use: what there is unless we say otherwise (RFC 9113 §6.5.2), and we do not.
const TABLE: usize = 4096;
/// What an entry takes beside its text (RFC 7541 §4.1).
const ENTRY: usize = 32;
/// Entries of the static table.
const STATIC: usize = 61;

/// What a header block has of pseudo-fields.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pseudo {
    /// How often `:status` stands in it, and the last that it says; 0: it is no number of three digits.
    pub(super) statuses: u8,
    pub(super) status: u16,
    /// Others, which only requests have.
    pub(super) others: bool,
}

/// A header block that is none. The connection has lost its way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// The header blocks of a connection, one after the other.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: Kind,
    /// Lengths of its name, and of both.
    name: usize,
    size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Field,
    Status(u16),
    /// Of a request.
    Other,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: TABLE }
    }
}

impl Blocks {
    /// Reads a whole block.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Pseudo, Broken> {
        let mut rest = Rest(block);
        let mut pseudo = Pseudo::default();
        while let Some(first) = rest.0.first().copied() {
            let kind = match first {
                0x80.. => self.at(rest.number(7)?)?.kind,
                0x40..0x80 => {
                    let entry = self.literal(&mut rest, 6, true)?;
                    self.insert(entry);
                    entry.kind
                }
                0x20..0x40 => {
                    self.resize(rest.number(5)?)?;
                    continue;
                }
                _ => self.literal(&mut rest, 4, false)?.kind,
            };
            match kind {
                Kind::Field => {}
                Kind::Status(status) => {
                    pseudo.statuses = pseudo.statuses.saturating_add(1);
                    pseudo.status = status;
                }
                Kind::Other => pseudo.others = true,
            }
        }
        Ok(pseudo)
    }

    /// A name, by its place or in letters, and a value. `kept`: it goes to the table, so its length matters.
    fn literal(&self, rest: &mut Rest<'_>, prefix: u32, kept: bool) -> Result<Entry, Broken> {
        let (kind, name) = match rest.number(prefix)? {
            0 => {
                let name = rest.text()?;
                (name.kind(), if kept { name.length()? } else { 0 })
            }
            index => {
                let entry = self.at(index)?;
                (entry.kind, entry.name)
            }
        };
        let value = rest.text()?;
        let kind = if matches!(kind, Kind::Status(_)) { Kind::Status(value.status()) } else { kind };
        let size = if kept { name + value.length()? + ENTRY } else { 0 };
        Ok(Entry { kind, name, size })
    }

    fn at(&self, index: usize) -> Result<Entry, Broken> {
        /// Those with which a status begins, in the static table (RFC 7541, appendix A).
        const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        match index {
            0 => Err(Broken),
            1..=7 => Ok(Entry { kind: Kind::Other, name: NAMES[index - 1], size: 0 }),
            8..=14 => Ok(Entry { kind: Kind::Status(STATUSES[index - 8]), name: NAMES[index - 1], size: 0 }),
            15..=STATIC => Ok(Entry { kind: Kind::Field, name: NAMES[index - 1], size: 0 }),
            _ => self.entries.get(index - STATIC - 1).copied().ok_or(Broken),
        }
    }

    fn insert(&mut self, entry: Entry) {
        if entry.size > self.max {
            self.evict(0);
            return;
        }
        self.evict(self.max - entry.size);
        self.size += entry.size;
        self.entries.push_front(entry);
    }

    fn resize(&mut self, max: usize) -> Result<(), Broken> {
        if max > TABLE {
            return Err(Broken);
        }
        self.max = max;
        self.evict(max);
        Ok(())
    }

    /// Leaves no more than this in the table.
    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size;
        }
    }
}

/// What is left of a block.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.0.split_first().ok_or(Broken)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number in the last bits of a byte, and behind it (RFC 7541 §5.1).
    fn number(&mut self, prefix: u32) -> Result<usize, Broken> {
        /// No length or place that means something is as large.
        const PIECES: u32 = 4;
        let most = (1 << prefix) - 1;
        let mut number = usize::from(self.byte()?) & most;
        if number < most {
            return Ok(number);
        }
        for piece in 0..PIECES {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << (7 * piece);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    fn text(&mut self) -> Result<Text<'a>, Broken> {
        let coded = self.0.first().ok_or(Broken)? & 0x80 != 0;
        let length = self.number(7)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Broken)?;
        self.0 = rest;
        Ok(Text { coded, bytes })
    }
}

/// A text, as it is or in Huffman's code.
struct Text<'a> {
    coded: bool,
    bytes: &'a [u8],
}

impl Text<'_> {
    /// As a name.
    fn kind(&self) -> Kind {
        // In code a colon has seven bits.
        let (status, colon): (&[u8], bool) = match (self.coded, self.bytes.first()) {
            (true, Some(first)) => (&[0xb8, 0x84, 0x8d, 0x36, 0xa3], first & 0xfe == 0xb8),
            (false, Some(first)) => (b":status", *first == b':'),
            (_, None) => return Kind::Field,
        };
        match colon {
            true if self.bytes == status => Kind::Status(0),
            true => Kind::Other,
            false => Kind::Field,
        }
    }

    /// As a status.
    fn status(&self) -> u16 {
        let mut digits = [0; 3];
        let known = if self.coded {
            coded_digits(self.bytes, &mut digits)
        } else {
            self.bytes.len() == 3
                && self.bytes.iter().zip(&mut digits).all(|(byte, digit)| {
                    *digit = u16::from(byte.wrapping_sub(b'0'));
                    byte.is_ascii_digit()
                })
        };
        if known { digits[0] * 100 + digits[1] * 10 + digits[2] } else { 0 }
    }

    /// In letters.
    fn length(&self) -> Result<usize, Broken> {
        if self.coded { coded_length(self.bytes) } else { Ok(self.bytes.len()) }
    }
}

/// Three digits in code, and nothing else: 0 to 2 have five bits, the others six.
fn coded_digits(bytes: &[u8], digits: &mut [u16; 3]) -> bool {
    let Some(padding) = (1..=3).contains(&bytes.len()).then(|| 32 - 8 * bytes.len()) else { return false };
    // Padded with ones, as code is.
    let mut bits = bytes.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    bits = (bits << padding) | ((1_u64 << padding) - 1) as u32;
    let mut used = 0;
    for digit in digits {
        let (code, length) = match bits >> 27 {
            low @ 0..=2 => (low, 5),
            _ => ((bits >> 26).wrapping_sub(0x19).wrapping_add(3), 6),
        };
        if code > 9 {
            return false;
        }
        *digit = code as u16;
        used += length;
        bits = (bits << length) | ((1 << length) - 1);
    }
    let whole = 8 * bytes.len();
    used <= whole && whole - used < 8 && bits == u32::MAX
}

/// How many letters a text in Huffman's code has. Which ones does not matter: codes of one length follow each other, so that it
/// is known by the first of each length and how many there are where one ends (RFC 7541, appendix B).
fn coded_length(bytes: &[u8]) -> Result<usize, Broken> {
    let (mut letters, mut code, mut length) = (0, 0_u32, 0_usize);
    for byte in bytes {
        for at in (0..8).rev() {
            code = code << 1 | u32::from(byte >> at & 1);
            length += 1;
            let (first, count) = *CODES.get(length).ok_or(Broken)?;
            if code.wrapping_sub(first) < count {
                if length == 30 && code == u32::MAX >> 2 {
                    // The end of a text has a code, and must not be there.
                    return Err(Broken);
                }
                (letters, code, length) = (letters + 1, 0, 0);
            }
        }
    }
    // What is left is padding: ones, and fewer than eight.
    if length < 8 && code == (1 << length) - 1 { Ok(letters) } else { Err(Broken) }
}

/// For each length of code, the first one and how many there are.
const CODES: [(u32, u32); 31] = {
    const COUNTS: [u32; 31] =
        [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
    let mut codes = [(0, 0); 31];
    let (mut length, mut first) = (0, 0);
    while length < 31 {
        codes[length] = (first, COUNTS[length]);
        first = (first + COUNTS[length]) << 1;
        length += 1;
    }
    codes
};

/// How long names of the static table are (RFC 7541, appendix A).
const NAMES: [usize; STATIC] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4,
    4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter_map(|byte| char::from(byte).to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
    }

    fn status(status: u16) -> Result<Pseudo, Broken> {
        Ok(Pseudo { statuses: 1, status, others: false })
    }

    /// RFC 7541, appendix C.6: the same three answers, in a table of 256 bytes.
    #[test]
    fn the_examples_of_the_rfc_are_followed() {
        let mut blocks = Blocks::default();
        let first = "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
                     63c7 8f0b 97c8 e9ae 82ae 43d3";
        assert_eq!(blocks.read(&bytes(first)), status(302));
        assert_eq!((blocks.size, blocks.max), (222, 256));
        assert_eq!(blocks.read(&bytes("4883 640e ffc1 c0bf")), status(307));
        assert_eq!(blocks.size, 222);
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
                     dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        assert_eq!(blocks.read(&bytes(third)), status(200));
        assert_eq!((blocks.size, blocks.entries.len()), (215, 3));
    }

    fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        let text = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()][..], text].concat();
        [vec![0x40], text(name), text(value)].concat()
    }

    #[test]
    fn pseudo_fields_are_found_however_they_are_written() {
        let read = |block: &[u8]| Blocks::default().read(block);
        assert_eq!(read(&[0x88, 0x8d]), Ok(Pseudo { statuses: 2, status: 404, others: false }));
        for block in [&literal(b":status", b"103")[..], b"\x48\x03103", b"\x08\x82\x08\x19", &bytes("0085b8848d36a303313033")] {
            assert_eq!(read(block), status(103), "{block:x?}");
        }
        for value in [&b"20"[..], b"2000", b"20x", b""] {
            assert_eq!(read(&literal(b":status", value)), status(0), "{value:?}");
        }
        for block in [&[0x81][..], &[0x87], &literal(b":path", b"/"), &literal(b":", b""), &bytes("0084b958d33f00")] {
            assert_eq!(read(block), Ok(Pseudo { others: true, ..Pseudo::default() }), "{block:x?}");
        }
        // By its place in the table, in this block or a later one.
        let mut blocks = Blocks::default();
        assert_eq!(blocks.read(&literal(b":status", b"199")), status(199));
        assert_eq!(blocks.read(&literal(b"x-a", b"1")), Ok(Pseudo::default()));
        assert_eq!(blocks.read(&[0xbf]), status(199));
        assert_eq!(blocks.read(&[0x7f, 0x00, 0x01, b'1']), status(0));
    }

    #[test]
    fn statuses_in_code_are_read() {
        // As the h2 crate and others write them.
        for (coded, number) in [("640e ff", 307), ("6402", 302), ("1001", 200), ("0807 ff", 0), ("089d 7f", 0)] {
            let coded = bytes(coded);
            let text = Text { coded: true, bytes: &coded };
            assert_eq!(text.status(), number, "{coded:x?}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for block in ["80", "be", "40", "4003", "400361", "7fffffffff7f", "3fe11f 3fe21f", "ff80808080 01", "4801", "00"] {
            let read = Blocks::default().read(&bytes(block));
            assert!(read.is_err(), "{block}");
        }
        // In code: the end of text, ones without end, and zeros for padding.
        for value in ["84ffffffff", "82ffff", "8118"] {
            let block = bytes(&format!("400161{value}"));
            assert_eq!(Blocks::default().read(&block), Err(Broken), "{value}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut blocks = Blocks::default();
        for number in 0..1000_u16 {
            blocks.read(&literal(b"name", &number.to_be_bytes())).unwrap();
            assert!(blocks.size <= TABLE);
        }
        assert_eq!(blocks.entries.len(), TABLE / 38);
        // One that has no room leaves none to the others.
        let large = [&b"\x40\x01a\x7f\xa1\x1f"[..], &[b'a'; 4128]].concat();
        blocks.read(&large).unwrap();
        assert_eq!((blocks.size, blocks.entries.len()), (0, 0));
        blocks.read(&literal(b"a", b"b")).unwrap();
        blocks.read(&[0x20]).unwrap();
        assert_eq!((blocks.size, blocks.entries.len()), (0, 0));
    }
}
