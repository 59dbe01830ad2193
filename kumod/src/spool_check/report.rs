//! What a check of a spool found, for people and as JSON. Invariant: both say the same, and a list that isn't printed
//! whole says how much is missing.
use kumo_core::port::Family;
use kumo_io_real::spool::offline::{Findings, Flaw, List, Outcome, Repair};
use serde_json::{Value, json};
use std::fmt::{Display, Write};

pub struct Report {
    /// What it is and where.
    pub spool: String,
    pub findings: Findings,
}

impl Report {
    pub fn exit_code(&self) -> i32 {
        if self.stopped().is_some() {
            return 1;
        }
        match self.findings.outcome() {
            Outcome::Whole | Outcome::Mended => 0,
            Outcome::Damaged => 3,
        }
    }

    pub fn text(&self) -> String {
        let found = &self.findings;
        let mut text = format!("{}\n", self.spool);
        line(&mut text, &format!("{} whole, {} octets", messages(found.whole), found.octets));
        let damaged = count(found.damaged.count, "damaged record", "damaged records");
        list(&mut text, &damaged, &found.damaged, describe);
        let lone = count(found.without_data.count, "envelope", "envelopes");
        list(&mut text, &format!("{lone} without a body"), &found.without_data, |id| {
            id.to_string()
        });
        let orphans = count(found.orphans.count, "body", "bodies");
        let doubt = match found.may_lack_records() {
            true => ", which may be in what is damaged",
            false => "",
        };
        let title = format!("{orphans} without an envelope{doubt}");
        list(&mut text, &title, &found.orphans, |id| id.to_string());
        let unreadable = count(found.unreadable.count, "record", "records");
        let title = format!("{unreadable} that can't be read");
        list(&mut text, &title, &found.unreadable, describe);
        let ranges = count(found.ranges.count, "place", "places");
        let title = format!("{ranges} where there may be more that can't be read");
        list(&mut text, &title, &found.ranges, String::clone);
        for damage in found.table_damage.iter().chain(&found.log_damage) {
            line(&mut text, damage);
        }
        for note in &found.notes {
            line(&mut text, &format!("note: {note}"));
        }
        if let Some(repair) = &found.repair {
            self.repair_text(&mut text, repair);
        }
        line(&mut text, self.verdict());
        text
    }

    fn repair_text(&self, text: &mut String, repair: &Repair) {
        if repair.messages_removed > 0 {
            let removed = messages(repair.messages_removed);
            let records = count(repair.records_exported, "record", "records");
            let quarantine = repair.quarantine.display();
            line(text, &format!("{removed} removed, after {records} went to {quarantine}"));
        }
        if let Some(why) = &repair.not_rewritten {
            line(text, &format!("the database wasn't made anew, and is as it was: {why}"));
        }
        if !repair.rewritten.is_empty() {
            let records = count(repair.records_rewritten, "record", "records");
            line(text, &format!("what could be read, {records}, went to a database made anew"));
        }
        for kept in &repair.kept {
            line(text, &format!("what was there before is kept in {}", kept.display()));
        }
        if let Some(why) = &repair.stopped {
            line(text, &format!("nothing was removed any more after this: {why}"));
        }
        if self.findings.left() > 0 {
            line(text, &format!("{} left that aren't whole", messages(self.findings.left())));
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.findings.outcome(), &self.findings.repair) {
            (Outcome::Whole, _) => "nothing is wrong",
            (Outcome::Mended, _) => "nothing is wrong any more",
            (Outcome::Damaged, None) => {
                "something is wrong; --repair exports what can be read of it, and takes it out"
            }
            (Outcome::Damaged, Some(_)) => {
                "something is still wrong; a repair removes nothing that it can't export or keep"
            }
        }
    }

    pub fn json(&self) -> String {
        let found = &self.findings;
        let flaw = |flaw: &Flaw| json!({ "id": flaw.id.to_string(), "family": name(flaw.family), "why": flaw.why });
        let outcome = match found.outcome() {
            Outcome::Whole => "whole",
            Outcome::Damaged => "damaged",
            Outcome::Mended => "mended",
        };
        let repair = found.repair.as_ref().map(|repair| {
            json!({
                "quarantine": repair.quarantine.display().to_string(),
                "records_exported": repair.records_exported,
                "messages_removed": repair.messages_removed,
                "messages_left": found.left(),
                "records_rewritten": repair.records_rewritten,
                "rewritten": repair.rewritten.iter().map(|family| name(*family)).collect::<Vec<_>>(),
                "kept": repair.kept.iter().map(|kept| kept.display().to_string()).collect::<Vec<_>>(),
                "stopped": repair.stopped,
                "not_rewritten": repair.not_rewritten,
            })
        });
        let report = json!({
            "spool": self.spool,
            "outcome": outcome,
            "whole": { "messages": found.whole, "octets": found.octets },
            "damaged": json_list(&found.damaged, flaw),
            "meta_without_data": json_list(&found.without_data, |id| json!(id.to_string())),
            "data_without_meta": json_list(&found.orphans, |id| json!(id.to_string())),
            "unreadable": json_list(&found.unreadable, flaw),
            "unreadable_ranges": json_list(&found.ranges, |range| json!(range)),
            "table_damage": found.table_damage,
            "log_damage": found.log_damage,
            "notes": found.notes,
            "repair": repair,
        });
        format!("{report}\n")
    }

    fn stopped(&self) -> Option<&str> {
        let repair = self.findings.repair.as_ref()?;
        repair.stopped.as_deref().or(repair.not_rewritten.as_deref())
    }
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

/// Nothing if it is empty.
fn list<T, D: Display>(text: &mut String, title: &str, list: &List<T>, describe: impl Fn(&T) -> D) {
    if list.count == 0 {
        return;
    }
    line(text, &format!("{title}:"));
    for item in &list.first {
        writeln!(text, "  {}", describe(item)).expect("a string takes everything");
    }
    let rest = list.count - list.first.len() as u64;
    if rest > 0 {
        line(text, &format!("  and {rest} more"));
    }
}

fn json_list<T>(list: &List<T>, describe: impl Fn(&T) -> Value) -> Value {
    let first: Vec<Value> = list.first.iter().map(describe).collect();
    json!({ "count": list.count, "first": first })
}

fn describe(flaw: &Flaw) -> String {
    format!("{} {}: {}", name(flaw.family), flaw.id, flaw.why)
}

fn name(family: Family) -> &'static str {
    match family {
        Family::Data => "data",
        Family::Meta => "meta",
    }
}

fn messages(number: u64) -> String {
    count(number, "message", "messages")
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kumo_core::id::SpoolId;
    use kumo_io_real::spool::offline::LISTED;

    fn report(findings: Findings) -> Report {
        Report { spool: "/spool (RocksDB, data and meta)".into(), findings }
    }

    #[test]
    fn nothing_wrong_is_three_lines() {
        let report = report(Findings { whole: 1, octets: 7, ..Findings::default() });
        let expected =
            "/spool (RocksDB, data and meta)\n1 message whole, 7 octets\nnothing is wrong\n";
        assert_eq!(report.text(), expected);
        assert_eq!(report.exit_code(), 0);
    }

    #[test]
    fn a_long_list_ends_with_how_many_are_missing_in_both_forms() {
        let mut findings = Findings::default();
        for number in 0..LISTED as u64 + 5 {
            findings.ranges.push(format!("range {number}"));
        }
        findings.unreadable_in.insert(Family::Data);
        let report = report(findings);
        let text = report.text();
        assert!(
            text.contains("1005 places where there may be more that can't be read:\n  range 0\n"),
            "{text}"
        );
        assert!(text.contains("  range 999\n  and 5 more\n"), "{text}");
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["unreadable_ranges"]["count"], 1005);
        assert_eq!(json["unreadable_ranges"]["first"].as_array().unwrap().len(), LISTED);
        assert_eq!(json["outcome"], "damaged");
        assert_eq!(report.exit_code(), 3);
    }

    #[test]
    fn where_something_is_lost_a_body_alone_may_not_be_an_orphan() {
        let mut findings = Findings::default();
        findings.orphans.push(SpoolId([0xab; 16]));
        assert!(report(findings.clone()).text().contains("1 body without an envelope:\n"));
        findings.log_damage.push("a log is damaged".into());
        let text = report(findings).text();
        let title = "1 body without an envelope, which may be in what is damaged:\n";
        assert!(text.contains(title), "{text}");
    }

    #[test]
    fn flaws_name_the_record_and_a_repair_that_stopped_is_a_failure() {
        let mut findings = Findings::default();
        let why = "the record's checksum doesn't fit".to_owned();
        findings.damaged.push(Flaw { id: SpoolId([0xab; 16]), family: Family::Meta, why });
        findings.repair = Some(Repair {
            quarantine: "/spool/quarantine".into(),
            records_exported: 2,
            messages_removed: 0,
            kept: vec!["/spool/damaged-1".into()],
            records_rewritten: 0,
            rewritten: [].into(),
            stopped: Some("no space".into()),
            not_rewritten: None,
        });
        let report = report(findings);
        let id = "ab".repeat(16);
        let text = report.text();
        let flaw = format!("1 damaged record:\n  meta {id}: the record's checksum doesn't fit\n");
        assert!(text.contains(&flaw), "{text}");
        assert!(text.contains("nothing was removed any more after this: no space\n"), "{text}");
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["damaged"]["first"][0]["id"], id);
        assert_eq!(json["repair"]["stopped"], "no space");
        assert_eq!(report.exit_code(), 1);
    }
}
