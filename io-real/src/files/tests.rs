//! Maildirs and journals in scratch directories.
use super::*;
use bytes::Bytes;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use tempfile::{TempDir, tempdir};

fn scratch() -> TempDir {
    tempdir().expect("a scratch directory")
}

fn delivery(directory: &Path, name: &str) -> MaildirDelivery {
    MaildirDelivery {
        directory: directory.display().to_string(),
        name: name.into(),
        dir_mode: None,
        file_mode: None,
        content: Bytes::from_static(b"Subject: hi\r\n\r\nthere\r\n"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_message_ends_up_whole_in_new_and_nothing_stays_in_tmp() {
    let scratch = scratch();
    let root = scratch.path().join("a/b/user");
    let files = RealFiles::new("mx/1:2.example", None);
    let name = files.deliver_to_maildir(delivery(&root, "17.M1P2")).await.expect("delivered");
    assert_eq!(name, "17.M1P2.mx\\0571\\0722.example");
    assert_eq!(names(&root), ["cur", "new", "tmp"]);
    assert_eq!(names(&root.join("new")), [name.as_str()]);
    assert_eq!(names(&root.join("tmp")), Vec::<String>::new());
    let message = root.join("new").join(&name);
    assert_eq!(fs::read(&message).expect("read"), b"Subject: hi\r\n\r\nthere\r\n");
    assert_eq!((mode(&message), mode(&root), mode(&root.join("new"))), (0o600, 0o700, 0o700));

    files.deliver_to_maildir(delivery(&root, "18.M2P2")).await.expect("delivered");
    assert_eq!(names(&root.join("new")).len(), 2);
}

#[tokio::test]
async fn modes_are_as_told_whatever_the_umask_but_only_on_what_is_made() {
    let scratch = scratch();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o711)).expect("ours");
    let root = scratch.path().join("user");
    let told = MaildirDelivery {
        dir_mode: Some(0o2777),
        file_mode: Some(0o666),
        ..delivery(&root, "17.M1P2")
    };
    let name = RealFiles::new("mx", None).deliver_to_maildir(told).await.expect("delivered");
    assert_eq!(mode(scratch.path()), 0o711);
    assert_eq!((mode(&root), mode(&root.join("tmp"))), (0o2777, 0o2777));
    assert_eq!(mode(&root.join("new").join(name)), 0o666);
}

#[tokio::test]
async fn what_a_crash_or_somebody_left_under_tmp_is_no_obstacle_and_is_never_followed() {
    let scratch = scratch();
    let root = scratch.path().join("user");
    let victim = scratch.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    fs::create_dir_all(root.join("tmp")).expect("made");
    fs::write(root.join("tmp/17.mx"), "half a mess").expect("written");
    symlink(&victim, root.join("tmp/18.mx")).expect("linked");
    let files = RealFiles::new("mx", None);
    for name in ["17", "18"] {
        let name = files.deliver_to_maildir(delivery(&root, name)).await.expect("delivered");
        let message = root.join("new").join(name);
        assert_eq!(fs::read(&message).expect("read"), b"Subject: hi\r\n\r\nthere\r\n");
        assert!(fs::symlink_metadata(&message).expect("there").is_file());
    }
    assert_eq!(fs::read(&victim).expect("read"), b"precious");
}

#[tokio::test]
async fn a_delivery_that_fails_names_the_file_and_leaves_nothing() {
    let scratch = scratch();
    let files = RealFiles::new("mx", None);
    let in_the_way = scratch.path().join("file");
    fs::write(&in_the_way, "").expect("written");
    let error = files.deliver_to_maildir(delivery(&in_the_way, "17")).await.expect_err("a file");
    assert!(error.contains(&in_the_way.display().to_string()), "{error}");

    let root = scratch.path().join("user");
    fs::create_dir_all(root.join("new/17.mx/occupied")).expect("made");
    let error = files.deliver_to_maildir(delivery(&root, "17")).await.expect_err("taken");
    assert!(error.starts_with("move a message to "), "{error}");
    assert_eq!(names(&root.join("tmp")), Vec::<String>::new());

    for name in ["", ".hidden", "../17", "a/b", "17:2,S", "a\0b", "a\nb"] {
        let error = files.deliver_to_maildir(delivery(&root, name)).await.expect_err(name);
        assert!(error.contains("can't be a maildir file name"), "{name:?}: {error}");
    }
    let long = "x".repeat(300);
    let error = files.deliver_to_maildir(delivery(&root, &long)).await.expect_err("too long");
    assert!(error.starts_with("create "), "{error}");
}

fn with_journal(directory: &Path) -> RealFiles {
    RealFiles::new("mx", Some(directory.to_owned()))
}

#[tokio::test]
async fn appends_add_up_in_their_segment_across_restarts() {
    let scratch = scratch();
    let directory = scratch.path().join("journal");
    let files = with_journal(&directory);
    for (segment, data) in [(1, "one"), (1, "two"), (2, "three"), (1, "late")] {
        files.append_to_journal(segment, data.into()).await.expect("appended");
    }
    drop(files);
    with_journal(&directory).append_to_journal(2, "four".into()).await.expect("appended");
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect("there");
    assert_eq!(read("journal-1.kj"), "onetwolate");
    assert_eq!(read("journal-2.kj"), "threefour");
    assert_eq!(mode(&directory.join("journal-2.kj")), 0o600);
}

#[tokio::test]
async fn trimming_removes_older_segments_and_nothing_else() {
    let scratch = scratch();
    let files = with_journal(scratch.path());
    for segment in [7, 9, 10, 11] {
        files.append_to_journal(segment, b"x".to_vec()).await.expect("appended");
    }
    assert_eq!(files.newest_journal_segment().await, Ok(11));
    for foreign in ["journal-x.kj", "journal-01.kj", "journal-1.txt", "other"] {
        fs::write(scratch.path().join(foreign), "").expect("written");
    }
    files.trim_journal(10).await.expect("trimmed");
    let left = [
        "journal-01.kj",
        "journal-1.txt",
        "journal-10.kj",
        "journal-11.kj",
        "journal-x.kj",
        "other",
    ];
    assert_eq!(names(scratch.path()), left);
    files.trim_journal(12).await.expect("the open one too");
    files.append_to_journal(11, b"y".to_vec()).await.expect("appended");
    let text = fs::read_to_string(scratch.path().join("journal-11.kj")).expect("there");
    assert_eq!(text, "y", "not into a file that is gone");
    let never = with_journal(&scratch.path().join("never"));
    never.trim_journal(3).await.expect("nothing to do");
    assert_eq!(never.newest_journal_segment().await, Ok(0));
}

#[tokio::test]
async fn a_full_disk_is_told_and_a_torn_segment_gets_nothing_more() {
    let scratch = scratch();
    symlink("/dev/full", scratch.path().join("journal-1.kj")).expect("linked");
    let files = with_journal(scratch.path());
    let error = files.append_to_journal(1, b"x".to_vec()).await.expect_err("full");
    assert!(error.contains("No space left"), "{error}");
    assert!(error.contains("journal-1.kj"), "{error}");
    let error = files.append_to_journal(1, b"x".to_vec()).await.expect_err("can't be cut");
    assert!(error.contains("begin a new segment"), "{error}");
    files.append_to_journal(2, b"x".to_vec()).await.expect("another one is fine");
}

#[tokio::test]
async fn without_a_directory_no_journal_is_kept() {
    let files = RealFiles::new("mx", None);
    files.append_to_journal(1, b"x".to_vec()).await.expect("dropped");
    files.trim_journal(5).await.expect("nothing to do");
}
