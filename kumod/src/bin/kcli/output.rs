//! How things are printed: tables for people, JSON for programs. What came from outside never reaches a terminal
//! with control characters in it.
use super::arguments::Form;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;
use std::io::IsTerminal;

impl Form {
    /// Listings that older scripts read as JSON are tables only for people.
    pub fn is_json(self) -> bool {
        self.json || !std::io::stdout().is_terminal()
    }
}

pub fn json(document: &Value) -> String {
    format!("{document:#}\n")
}

/// A table without lines. A header that ends with `>` belongs to a column of numbers.
pub fn table<const N: usize>(
    headers: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(headers.iter().map(|header| header.trim_end_matches('>')));
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    for (position, column) in table.column_iter_mut().enumerate() {
        if headers[position].ends_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let right = if position + 1 == N { 0 } else { 2 };
        column.set_padding((0, right));
    }
    let mut text: String =
        table.lines().flat_map(|line| [line.trim_end().to_owned(), "\n".into()]).collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// Visible characters only: names and reasons are other people's.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1,142`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `2 messages`
pub fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// An absent value in a table.
pub fn or_dash(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}
