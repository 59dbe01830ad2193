//! The disk that loses power, shown with shell commands: what a cut must leave of each course of events, and what it
//! may leave where a part of the unsynced is kept. Whether kumod bears it is another file's question.
use super::support::Home;
use super::support::choices::Choices;
use super::support::power::state::State;
use super::support::power::{Disk, Keep, Lost};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a script in the folder of the disk. Standard tools only: `sync FILE` is fsync, `sync -d` is fdatasync.
fn run(home: &Home, disk: &Disk, script: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(home.path("disk")).envs(disk.environment());
    let output = shell.output().expect("sh can be run");
    assert!(output.status.success(), "{script}: {output:?}");
}

/// Each file's content, by its path; folders end with a slash.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() {
            found.insert(name, fs::read_to_string(entry.path()).unwrap());
            continue;
        }
        let below =
            tree(&entry.path()).into_iter().map(|(path, text)| (format!("{name}/{path}"), text));
        found.extend(below);
        found.insert(name + "/", String::new());
    }
    found
}

/// What two lives leave, each cut off after its script.
fn after(before: &str, script: &str, keep: Keep<'_>) -> (BTreeMap<String, String>, Lost) {
    let home = Home::new();
    let mut disk = Disk::new(&home, &[]);
    run(&home, &disk, before);
    disk.cut(Keep::Nothing);
    run(&home, &disk, script);
    let lost = disk.cut(keep);
    (tree(&home.path("disk")), lost)
}

type Tree = &'static [(&'static str, &'static str)];

#[test]
fn a_cut_leaves_what_was_synced() {
    // What is durable before, what happens then, what is there after the cut.
    let stories: [(&str, &str, Tree); 13] = [
        ("", "echo new > a; sync a", &[]),
        ("", "echo new > a; sync .", &[("a", "")]),
        ("", "printf one > a; sync a .; printf two >> a", &[("a", "one")]),
        ("", "printf one > a; sync .; sync -d a; printf two >> a", &[("a", "one")]),
        (
            "printf one > a; sync a .",
            "printf two >> a; sync a; printf three >> a",
            &[("a", "onetwo")],
        ),
        ("echo > a; sync a .", "rm a", &[("a", "\n")]),
        ("echo > a; sync a .", "rm a; sync .", &[]),
        ("echo > a; sync a .", "mv a b", &[("a", "\n")]),
        ("echo > a; sync a .", "mv a b; sync .", &[("b", "\n")]),
        ("echo old > a; sync a .", "echo new > b; sync b; mv b a", &[("a", "old\n")]),
        ("echo old > a; sync a .", "echo new > b; sync b; mv b a; sync .", &[("a", "new\n")]),
        ("mkdir d; sync .", "echo > d/a; sync d/a .; mkdir d/e", &[("d/", "")]),
        (
            "mkdir d; echo > d/a; sync d/a d .",
            "rm d/a; rmdir d; mkdir e; echo > e/b; sync e/b e",
            &[("d/", ""), ("d/a", "\n")],
        ),
    ];
    for (before, script, expected) in stories {
        let (found, _) = after(before, script, Keep::Nothing);
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        assert_eq!(found, expected, "{before} | {script}");
    }
}

#[test]
fn a_cut_says_what_it_took() {
    let (_, lost) =
        after("printf one > a.log; sync a.log .", "printf four >> a.log; echo > b", Keep::Nothing);
    assert_eq!((lost.octets_of(".log"), lost.octets_of(".sst"), lost.changes), (4, 0, 1));
}

/// Each outcome has a fair chance, so that these seeds meet them all.
fn outcomes(before: &str, script: &str) -> BTreeSet<String> {
    let some = |seed| after(before, script, Keep::Some(&mut Choices::new(seed, 0))).0;
    (0..30).map(|seed| format!("{:?}", some(seed))).collect()
}

#[test]
fn a_lenient_cut_leaves_any_prefix_and_any_choice_of_changes() {
    let prefixes = outcomes("printf one > a; sync a .", "printf xyz >> a");
    let expected = ["one", "onex", "onexy", "onexyz"].map(|text| format!("{{\"a\": \"{text}\"}}"));
    assert_eq!(prefixes, BTreeSet::from(expected));
    let changes = outcomes("echo > a; sync a .", "rm a; echo > b; sync b");
    let expected =
        ["{\"a\": \"\\n\", \"b\": \"\\n\"}", "{\"a\": \"\\n\"}", "{\"b\": \"\\n\"}", "{}"];
    assert_eq!(changes, BTreeSet::from(expected.map(String::from)));
}

/// File systems do that as they please, so that no script can make them.
#[test]
fn a_folder_with_the_number_of_one_that_was_removed_is_another() {
    let entries = |of: &[(&str, u64)]| of.iter().map(|(name, n)| (name.to_string(), *n)).collect();
    let mut state = State {
        root: 1,
        folders: BTreeMap::from([(1, entries(&[("d", 2)])), (2, entries(&[("a", 3)]))]),
        files: BTreeMap::from([(3, 5)]),
    };
    let lines = "gone 2 a\ngone 1 d\nfolder 2 1 e\nfile 4 2 b\nsettled 2 43\n";
    assert_eq!(state.follow(lines, &mut Keep::Nothing), 3);
    let [(name, number)] = state.folders[&1].iter().collect::<Vec<_>>()[..] else {
        panic!("{state:?}")
    };
    assert_eq!((name.as_str(), &state.folders[number]), ("d", &entries(&[("a", 3)])));
    assert_eq!(state.folders[&2], entries(&[("b", 4)]), "durable, in a folder that isn't");
}

/// Lengths can't tell it, so it must not pass unnoticed.
#[test]
#[should_panic = "octets that had been synced were overwritten"]
fn an_overwriting_is_noticed() {
    after("", "echo one > a; sync a .; echo x | dd of=a conv=notrunc status=none", Keep::Nothing);
}
