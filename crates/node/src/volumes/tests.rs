use super::*;
use atomic_writer::write;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn files(list: &[(&str, &str, u32)]) -> Files {
    let file = |content: &str, mode| FilePayload { content: content.into(), mode, owner: None };
    list.iter().map(|(path, content, mode)| (path.to_string(), file(content, *mode))).collect()
}

/// The visible files of a volume with their content.
fn visible(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with(".."))
        .collect();
    names.sort();
    names
}

#[test]
fn files_change_all_at_once_and_stale_ones_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let at_path = |name: &str| folder.path().join(name);
    write(folder.path(), &files(&[("a", "1", 0o644), ("d/b", "2", 0o600), ("d/c", "3", 0o400)]), None, at(1))
        .expect("written");
    assert_eq!(visible(folder.path()), ["a", "d"]);
    assert_eq!(fs::read_to_string(at_path("d/b")).expect("read"), "2");
    assert_eq!(fs::metadata(at_path("d/c")).expect("there").permissions().mode() & 0o777, 0o400);
    let old = fs::read_link(at_path("..data")).expect("a link");

    write(folder.path(), &files(&[("a", "1", 0o644), ("d/b", "2", 0o600), ("d/c", "3", 0o400)]), None, at(2))
        .expect("written");
    assert_eq!(fs::read_link(at_path("..data")).expect("a link"), old, "nothing changed, nothing is written");

    // A reader that has the old folder open keeps reading the old content.
    let held = fs::File::open(at_path("a")).expect("open");
    write(folder.path(), &files(&[("a", "new", 0o644), ("e", "4", 0o644)]), None, at(3)).expect("written");
    assert_eq!(visible(folder.path()), ["a", "e"]);
    assert_eq!(fs::read_to_string(at_path("a")).expect("read"), "new");
    assert_eq!(std::io::read_to_string(held).expect("read"), "1");
    let folders = fs::read_dir(folder.path())
        .expect("a folder")
        .flatten()
        .filter(|e| e.path().is_dir() && !e.path().is_symlink());
    assert_eq!(folders.count(), 1, "the old folder is gone");
}

#[test]
fn a_mode_that_changes_is_a_change() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &files(&[("a", "1", 0o644)]), None, at(1)).expect("written");
    write(folder.path(), &files(&[("a", "1", 0o600)]), Some(77), at(2)).expect("written");
    let meta = fs::metadata(folder.path().join("a")).expect("there");
    assert_eq!((meta.permissions().mode() & 0o777, meta.gid()), (0o640, 77));
}

#[test]
fn files_do_not_leave_the_volume() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in ["", "../x", "/x", "a/../../x", "..x", "a/.."] {
        let error = write(folder.path(), &files(&[(path, "1", 0o644)]), None, at(1));
        assert!(error.is_err(), "{path:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

/// Unmounts when the test ends.
struct Mounts(tempfile::TempDir);

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = unmount_under(self.0.path());
    }
}

#[test]
fn a_part_of_a_volume_is_bound_and_never_anything_outside() {
    let mounts = Mounts(tempfile::tempdir().expect("a folder"));
    let (volume, target) = (mounts.0.path().join("volume"), mounts.0.path().join("target"));
    fs::create_dir_all(volume.join("data")).expect("made");
    fs::write(volume.join("data/file"), "inside").expect("written");
    fs::write(mounts.0.path().join("secret"), "outside").expect("written");
    symlink("data", volume.join("link")).expect("linked");
    symlink("../secret", volume.join("up")).expect("linked");
    symlink(mounts.0.path(), volume.join("away")).expect("linked");

    sub_path::bind(&volume, "data", &target.join("0")).expect("bound");
    assert_eq!(fs::read_to_string(target.join("0/file")).expect("read"), "inside");
    sub_path::bind(&volume, "link/file", &target.join("1")).expect("bound");
    assert_eq!(fs::read_to_string(target.join("1")).expect("read"), "inside");
    sub_path::bind(&volume, "new/deep", &target.join("2")).expect("made and bound");
    assert!(volume.join("new/deep").is_dir());
    sub_path::bind(&volume, "data", &target.join("0")).expect("bound again, as after a restart of the agent");
    for path in ["up", "away/secret", "away/made", "../secret", "/etc", "data/../../secret"] {
        let error = sub_path::bind(&volume, path, &target.join("3")).expect_err(path);
        assert!(matches!(error, Error::Pod(_)), "{path}: {error:?}");
    }
    assert!(!mounts.0.path().join("made").exists());
}

#[test]
fn tearing_down_unmounts_and_removes_and_may_be_repeated() {
    let mounts = Mounts(tempfile::tempdir().expect("a folder"));
    let root = mounts.0.path();
    let volume = pod_folder(root, "u").join("volumes/kubernetes.io~empty-dir/with space");
    assert!(empty_dir::make(&volume, Some(1 << 20)).expect("made"));
    assert!(!empty_dir::make(&volume, Some(1 << 20)).expect("made"), "it is there already");
    sub_path::bind(&volume, "part", &pod_folder(root, "u").join("volume-subpaths/v/c/0")).expect("bound");
    for _ in 0..2 {
        tear_down(root, "u").expect("torn down");
    }
    assert!(!pod_folder(root, "u").join("volumes").exists());
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a table");
    assert!(!mount_points(&table).iter().any(|p| p.starts_with(root)));
}

#[test]
fn mount_points_are_read_with_their_escapes() {
    let table = "36 35 98:0 /mnt1 /mnt/a\\040b rw - ext3 /dev/root rw\n37 35 98:0 / /plain rw - ext3 x rw\n";
    assert_eq!(mount_points(table), [PathBuf::from("/mnt/a b"), PathBuf::from("/plain")]);
}

#[test]
fn everything_in_a_volume_is_given_to_the_group_and_links_are_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (volume, outside) = (folder.path().join("v"), folder.path().join("outside"));
    fs::create_dir_all(volume.join("d")).expect("made");
    fs::write(volume.join("d/file"), "x").expect("written");
    fs::write(&outside, "x").expect("written");
    symlink(&outside, volume.join("link")).expect("linked");
    ownership::give(&volume, 77, true).expect("given");
    let of =
        |path: &Path| fs::metadata(path).map(|m| (m.gid(), m.permissions().mode() & 0o7770)).expect("there");
    assert_eq!(of(&volume), (77, 0o2770));
    assert_eq!(of(&volume.join("d")), (77, 0o2770));
    assert_eq!(of(&volume.join("d/file")), (77, 0o660));
    assert_ne!(of(&outside).0, 77);
    // Its own folder is the group's: what came since is left as it is, unless it is to be looked at every time.
    fs::write(volume.join("late"), "x").expect("written");
    std::os::unix::fs::chown(volume.join("late"), None, Some(0)).expect("changed");
    ownership::give(&volume, 77, true).expect("given");
    assert_eq!(of(&volume.join("late")).0, 0);
    ownership::give(&volume, 77, false).expect("given");
    assert_eq!(of(&volume.join("late")).0, 77);
}
