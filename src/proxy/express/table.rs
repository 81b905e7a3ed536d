//! A message's head as places in its own bytes: found once, changed without being taken apart, written out again.
//!
//! What is put in place is appended to the bytes, so a field is two ranges wherever it comes from. Below some thirty fields, which is
//! every head, walking over them is cheaper than a map.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::spare;
use crate::filter::{Field, Fields, InvalidField};
use crate::router::Headers;
use crate::types::is_token;

/// A name in lower case fits, nearly always.
const SHORT: usize = 64;
/// Room for what is put in place.
const ROOM: usize = 512;

/// A part of a head's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Piece {
    at: u32,
    length: u32,
}

impl Piece {
    /// Heads are bounded far below 4 GiB: a place beyond is none.
    pub(crate) fn new(range: &Range<usize>) -> Self {
        let at = u32::try_from(range.start).unwrap_or(u32::MAX);
        Self { at, length: u32::try_from(range.len()).unwrap_or(0) }
    }

    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.at as usize..self.at as usize + self.length as usize).unwrap_or_default()
    }

    pub(super) fn is_empty(self) -> bool {
        self.length == 0
    }

    pub(super) fn range(self) -> Range<usize> {
        self.at as usize..self.end() as usize
    }

    fn end(self) -> u32 {
        self.at.saturating_add(self.length)
    }
}

/// A field; one that was taken away has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    name: Piece,
    value: Piece,
    /// The line stands in the text as it is to be written, with its end.
    plain: bool,
}

/// Where the parts of a request's head are, as its strict reader has found them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(super) method: Piece,
    pub(super) target: Piece,
    pub(super) is_http10: bool,
    fields: Vec<Row>,
}

impl Row {
    /// A field in `text`.
    pub(super) fn of(text: &[u8], name: &Range<usize>, value: &Range<usize>) -> Self {
        let two = |at: usize| text.get(at..).and_then(<[u8]>::first_chunk);
        let plain = value.start == name.end + 2 && two(name.end) == Some(b": ") && two(value.end) == Some(b"\r\n");
        Self { name: Piece::new(name), value: Piece::new(value), plain }
    }

    /// Most names differ in their length, and most others in their first letter.
    fn is(self, text: &[u8], name: &[u8]) -> bool {
        self.name.length as usize == name.len() && !name.is_empty() && alike(self.name.of(text), name)
    }
}

/// Whether two names are the same, of which this is cheaper to say than of any text: where bytes of tokens differ in this one bit,
/// they are a letter in either case, or `^` and `~`.
pub(super) fn alike(one: &[u8], other: &[u8]) -> bool {
    let same = |(one, other): (&u8, &u8)| one | 0x20 == other | 0x20 && (one == other || one.is_ascii_alphabetic());
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// A field as it stands in a head, with the end of its line, and how long its name is. Behind that come `: `.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    pub(super) name: usize,
}

impl Rows {
    /// A head begins: what was found of one that was not whole is forgotten.
    pub(crate) fn begin(&mut self, method: &Range<usize>, target: &Range<usize>, is_http10: bool) {
        self.method = Piece::new(method);
        self.target = Piece::new(target);
        self.is_http10 = is_http10;
        self.fields.clear();
        if self.fields.capacity() == 0 {
            self.fields = spare::rows();
        }
    }

    /// A field of the head `text`.
    pub(crate) fn field(&mut self, text: &[u8], name: &Range<usize>, value: &Range<usize>) {
        self.fields.push(Row::of(text, name, value));
    }
}

/// The fields of a head over its bytes.
#[derive(Debug, Default)]
pub(super) struct Table {
    text: Vec<u8>,
    rows: Vec<Row>,
}

impl Drop for Table {
    fn drop(&mut self) {
        spare::give_text(std::mem::take(&mut self.text));
        spare::give_rows(std::mem::take(&mut self.rows));
    }
}

impl Table {
    /// A request's: `head` is what `rows` were found in.
    pub(super) fn of_request(head: &[u8], rows: Rows) -> Self {
        let mut text = spare::text(head.len() + ROOM);
        // Without the empty line at its end: what is added follows the last field.
        text.extend_from_slice(head.strip_suffix(b"\r\n").unwrap_or(head));
        Self { text, rows: rows.fields }
    }

    /// A head whose fields are in these places, name and value. More may follow it in `text`.
    pub(super) fn new(text: Vec<u8>, fields: Vec<Row>) -> Self {
        Self { text, rows: fields }
    }

    /// The same fields once more.
    pub(super) fn copy_to(&self, copy: &mut Self) {
        copy.text = spare::text(self.text.len() + ROOM);
        copy.text.extend_from_slice(&self.text);
        copy.rows = spare::rows();
        copy.rows.extend_from_slice(&self.rows);
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Appends bytes that no field holds.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Piece {
        let at = self.text.len();
        self.text.extend_from_slice(bytes);
        Piece::new(&(at..self.text.len()))
    }

    /// How many fields there are, at most.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Name and value of each field, as they were written.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + Clone {
        self.rows.iter().filter(|row| !row.name.is_empty()).map(|row| (row.name.of(&self.text), row.value.of(&self.text)))
    }

    /// The values of a name, in order.
    pub(super) fn all<'a>(&'a self, name: &'a [u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.rows.iter().filter(move |row| row.is(&self.text, name)).map(|row| row.value.of(&self.text))
    }

    pub(super) fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.place(name).map(|value| value.of(&self.text))
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.rows.iter().any(|row| row.is(&self.text, name))
    }

    /// Takes away the fields of which this holds; says whether there was one.
    pub(super) fn take_away(&mut self, gone: impl Fn(&[u8]) -> bool) -> bool {
        let mut any = false;
        for row in self.rows.iter_mut().filter(|row| !row.name.is_empty()) {
            if gone(row.name.of(&self.text)) {
                row.name = Piece::default();
                any = true;
            }
        }
        any
    }

    pub(super) fn take_away_name(&mut self, name: &[u8]) -> bool {
        let Self { text, rows } = self;
        let mut any = false;
        for row in rows.iter_mut().filter(|row| row.is(text, name)) {
            row.name = Piece::default();
            any = true;
        }
        any
    }

    /// Adds a field that is known to be right.
    pub(super) fn append(&mut self, name: &[u8], value: &[u8]) {
        self.append_with(name, |text| text.extend_from_slice(value));
    }

    /// Likewise, with a value that is written in place, behind the text that there is.
    pub(super) fn append_with(&mut self, name: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        let row = self.written(name, value);
        self.rows.push(row);
    }

    /// Adds a field with the value of another's, which is in this place.
    pub(super) fn append_copy(&mut self, name: &[u8], value: Piece) {
        self.append_with(name, |text| text.extend_from_within(value.range()));
    }

    /// Where the value of the first field of this name is.
    pub(super) fn place(&self, name: &[u8]) -> Option<Piece> {
        self.rows.iter().find(|row| row.is(&self.text, name)).map(|row| row.value)
    }

    /// Adds a field that stands as it is to be written, with the end of its line.
    pub(super) fn append_line(&mut self, line: Line<'_>) {
        let row = self.line(line);
        self.rows.push(row);
    }

    /// Puts a field that is known to be right in the place of all of its name.
    pub(super) fn replace(&mut self, name: &[u8], value: &[u8]) {
        let row = self.written(name, |text| text.extend_from_slice(value));
        self.put(row, name);
    }

    /// Likewise, as [`Table::append_line`].
    pub(super) fn replace_line(&mut self, line: Line<'_>) {
        let row = self.line(line);
        self.put(row, &line.text[..line.name]);
    }

    fn put(&mut self, row: Row, name: &[u8]) {
        let Self { text, rows } = self;
        let mut first = true;
        for old in rows.iter_mut() {
            if old.is(text, name) {
                *old = if std::mem::take(&mut first) { row } else { Row { name: Piece::default(), ..row } };
            }
        }
        if first {
            rows.push(row);
        }
    }

    fn line(&mut self, line: Line<'_>) -> Row {
        let at = self.text.len();
        self.text.extend_from_slice(line.text);
        let (colon, end) = (at + line.name, at + line.text.len() - 2);
        Row { name: Piece::new(&(at..colon)), value: Piece::new(&(colon + 2..end)), plain: true }
    }

    /// As a line of a head, so that it is written out in one piece.
    fn written(&mut self, name: &[u8], value: impl FnOnce(&mut Vec<u8>)) -> Row {
        let at = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        value(&mut self.text);
        let end = self.text.len();
        self.text.extend_from_slice(b"\r\n");
        let colon = at + name.len();
        Row { name: Piece::new(&(at..colon)), value: Piece::new(&(colon + 2..end)), plain: true }
    }

    /// Writes the fields as lines, behind a part of the text that comes first. Lines that stand as they are to be written, one after the
    /// other, are copied at once.
    pub(super) fn write_to(&self, first: Range<usize>, out: &mut Vec<u8>) {
        let mut run = first;
        for row in self.rows.iter().filter(|row| !row.name.is_empty()) {
            let line = row.name.at as usize..row.value.end() as usize + 2;
            if row.plain && line.start == run.end {
                run.end = line.end;
                continue;
            }
            out.extend_from_slice(&self.text[run]);
            run = if row.plain {
                line
            } else {
                out.extend_from_slice(row.name.of(&self.text));
                out.extend_from_slice(b": ");
                out.extend_from_slice(row.value.of(&self.text));
                out.extend_from_slice(b"\r\n");
                0..0
            };
        }
        out.extend_from_slice(&self.text[run]);
    }

    /// The same fields in a map, for what is asked too seldom to be asked of both.
    pub(super) fn map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.rows.len());
        for (name, value) in self.iter() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }
}

/// What `Connection` lists, in any of its fields.
pub(super) fn options(table: &Table) -> impl Iterator<Item = &[u8]> {
    let values = table.all(b"connection").filter(|value| is_visible(value));
    values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// As `HeaderValue::to_str` has it.
fn is_visible(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

/// Checks a name and value as [`crate::filter::parse_field`] does, without making anything of them.
fn sound(name: &str, value: &[u8]) -> Result<(), InvalidField> {
    if name.is_empty() || name.len() > usize::from(u16::MAX) || !name.bytes().all(is_token) {
        return Err(InvalidField::Name(name.to_owned()));
    }
    let controls = value.iter().fold(false, |found, byte| found | (*byte < 0x20 && *byte != b'\t') | (*byte == 0x7f));
    if controls { Err(InvalidField::Value(name.to_owned())) } else { Ok(()) }
}

impl Fields for Table {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.first(name.as_bytes())
    }

    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in self.iter() {
            // Names are told in lower case, whatever the client's habits.
            let (mut short, long);
            let lower = if let Some(space) = short_name(name) {
                short = space;
                short[..name.len()].make_ascii_lowercase();
                &short[..name.len()]
            } else {
                long = name.to_ascii_lowercase();
                &long[..]
            };
            if let Ok(name) = std::str::from_utf8(lower) {
                visit(name, value);
            }
        }
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        sound(name, value)?;
        self.replace(name.as_bytes(), value);
        Ok(())
    }

    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        sound(name, value)?;
        self.append(name.as_bytes(), value);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> bool {
        self.take_away_name(name.as_bytes())
    }

    fn set_field(&mut self, field: &Field) {
        self.replace_line(Line { text: field.line(), name: field.name().len() });
    }

    fn add_field(&mut self, field: &Field) {
        self.append_line(Line { text: field.line(), name: field.name().len() });
    }
}

fn short_name(name: &[u8]) -> Option<[u8; SHORT]> {
    let mut space = [0; SHORT];
    space.get_mut(..name.len())?.copy_from_slice(name);
    Some(space)
}

impl Headers for Table {
    fn any(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.all(name.as_str().as_bytes()).any(test)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(lines: &str) -> Table {
        let mut rows = Rows::default();
        rows.begin(&(0..0), &(0..0), false);
        let mut at = 0;
        for line in lines.split_inclusive("\r\n") {
            let colon = line.find(':').unwrap();
            let value = line[colon + 1..].trim();
            let start = at + colon + 1 + line[colon + 1..].find(value).unwrap();
            rows.field(lines.as_bytes(), &(at..at + colon), &(start..start + value.len()));
            at += line.len();
        }
        Table::of_request(format!("{lines}\r\n").as_bytes(), rows)
    }

    fn written(table: &Table) -> String {
        let mut out = Vec::new();
        table.write_to(0..0, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_written_in_one_form() {
        let mut fields = table("Host: a\r\nX-A:1\r\nX-B: 2\r\nX-C:  3 \r\nX-D: 4\r\n");
        assert_eq!(written(&fields), "Host: a\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nX-D: 4\r\n");
        fields.set("x-b", b"5").unwrap();
        fields.add("x-e", b"").unwrap();
        assert!(fields.remove("x-a") && !fields.remove("x-a"));
        assert_eq!(written(&fields), "Host: a\r\nx-b: 5\r\nX-C: 3\r\nX-D: 4\r\nx-e: \r\n");
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Set(String, String),
        Add(String, String),
        Remove(String),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let name =
            || prop::sample::select(vec!["host", "x-a", "X-A", "x-b", "set-cookie", "a b", "", "é"]).prop_map(str::to_owned);
        let value = || prop::sample::select(vec!["", "1", "a b", "a\tb", "ä", "a\r\nb", "\0", "\u{7f}"]).prop_map(str::to_owned);
        prop_oneof![
            (name(), value()).prop_map(|(name, value)| Edit::Set(name, value)),
            (name(), value()).prop_map(|(name, value)| Edit::Add(name, value)),
            name().prop_map(Edit::Remove),
        ]
    }

    fn apply(fields: &mut dyn Fields, edit: &Edit) -> Result<bool, InvalidField> {
        match edit {
            Edit::Set(name, value) => fields.set(name, value.as_bytes()).map(|()| true),
            Edit::Add(name, value) => fields.add(name, value.as_bytes()).map(|()| true),
            Edit::Remove(name) => Ok(fields.remove(name)),
        }
    }

    /// Names and values, those of a name together: what a head means.
    fn meaning(fields: &dyn Fields) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        fields.each(&mut |name, value| all.push((name.to_owned(), value.to_vec())));
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    proptest! {
        #[test]
        fn a_table_is_a_list_of_fields(edits in prop::collection::vec(edit(), 0..20)) {
            let mut fields = table("Host: a\r\nX-A: 1\r\nSet-Cookie: a\r\nset-cookie:b\r\n");
            let mut list = crate::filter::FieldList::default();
            for (name, value) in [("host", "a"), ("x-a", "1"), ("set-cookie", "a"), ("set-cookie", "b")] {
                list.add(name, value.as_bytes()).unwrap();
            }
            for edit in &edits {
                prop_assert_eq!(apply(&mut fields, edit), apply(&mut list, edit));
                prop_assert_eq!(meaning(&fields), meaning(&list));
                for name in ["host", "X-a", "set-COOKIE", "none"] {
                    prop_assert_eq!(fields.get(name), list.get(name));
                }
            }
            let again = table(&written(&fields));
            prop_assert_eq!(meaning(&again), meaning(&list));
            let mut copy = Table::default();
            fields.copy_to(&mut copy);
            prop_assert_eq!(written(&copy), written(&fields));
        }
    }
}
