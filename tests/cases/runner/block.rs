//! A case file cut into blocks: a line at the margin, and the indented lines below it.

/// What is wrong with a case file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) line: usize,
    pub(crate) message: String,
}

pub(crate) fn mistake<T>(line: usize, message: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { line, message: message.into() })
}

/// Puts the line to a message.
pub(crate) trait At<T> {
    fn at(self, line: usize) -> Result<T, Mistake>;
}

impl<T> At<T> for Result<T, String> {
    fn at(self, line: usize) -> Result<T, Mistake> {
        self.map_err(|message| Mistake { line, message })
    }
}

/// A line at the margin with the lines below it, their common indentation taken off.
#[derive(Debug, Clone)]
pub(crate) struct Block<'a> {
    pub(crate) line: usize,
    pub(crate) head: &'a str,
    pub(crate) body: Vec<Line<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) number: usize,
    pub(crate) text: &'a str,
}

impl Block<'_> {
    /// Refuses lines below a head that takes none.
    pub(crate) fn no_body(&self) -> Result<(), Mistake> {
        match self.body.first() {
            Some(line) => mistake(line.number, format!("`{}` takes no indented lines", self.head)),
            None => Ok(()),
        }
    }
}

/// The comment at the head of the file, and the blocks.
pub(crate) fn blocks(text: &str) -> Result<(String, Vec<Block<'_>>), Mistake> {
    let mut title = Vec::new();
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (index, text) in text.split('\n').enumerate() {
        let number = index + 1;
        if text.ends_with([' ', '\t', '\r']) {
            return mistake(number, "the line ends in blank space; where it matters write \\x20, \\t or \\r");
        }
        if let Some(comment) = text.strip_prefix('#') {
            if blocks.is_empty() {
                title.push(comment.trim());
            }
        } else if text.is_empty() || text.starts_with(' ') {
            match blocks.last_mut() {
                Some(block) => block.body.push(Line { number, text }),
                None if text.is_empty() => {}
                None => return mistake(number, "an indented line before any section"),
            }
        } else if text.starts_with('\t') {
            return mistake(number, "indent with spaces");
        } else {
            blocks.push(Block { line: number, head: text, body: Vec::new() });
        }
    }
    for block in &mut blocks {
        dedent(block);
    }
    if title.is_empty() {
        return mistake(1, "begin with a comment that says what the case shows");
    }
    Ok((title.join(" "), blocks))
}

fn dedent(block: &mut Block<'_>) {
    while block.body.last().is_some_and(|line| line.text.is_empty()) {
        block.body.pop();
    }
    let filled = block.body.iter().filter(|line| !line.text.is_empty());
    let indentation = filled.map(|line| line.text.len() - line.text.trim_start_matches(' ').len()).min().unwrap_or(0);
    for line in &mut block.body {
        line.text = line.text.get(indentation..).unwrap_or_default();
    }
}
