//! Layers as they come from builders and from attackers, unpacked on a real file system.

use super::*;
use proptest::prelude::*;
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};
use tar::Header;

/// An archive under construction. Names go in as they are, also those that the `tar` crate would refuse to write.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn member(mut self, kind: EntryType, name: &str, link: &str, mode: u32, body: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000_000);
        header.set_size(body.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let mut length = key.len() + value.len() + 3;
        while length.to_string().len() + key.len() + value.len() + 3 != length {
            length += 1;
        }
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.member(EntryType::XHeader, "pax", "", 0, &record)
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.member(EntryType::Directory, name, "", mode, b"")
    }
    fn file(self, name: &str, body: &str) -> Self {
        self.member(EntryType::Regular, name, "", 0o644, body.as_bytes())
    }
    fn symlink(self, name: &str, to: &str) -> Self {
        self.member(EntryType::Symlink, name, to, 0o777, b"")
    }
    fn hard_link(self, name: &str, to: &str) -> Self {
        self.member(EntryType::Link, name, to, 0o644, b"")
    }

    /// Unpacks below a folder that has a secret beside the layer.
    fn unpack(self) -> Layer {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        let outcome = unpack(self.0.as_slice(), &dir.path().join("layer"), Limits::default());
        Layer { dir, outcome }
    }
}

struct Layer {
    dir: tempfile::TempDir,
    outcome: Result<Unpacked, Error>,
}

impl Layer {
    fn at(&self, path: &str) -> PathBuf {
        self.outcome.as_ref().expect("unpacked");
        self.dir.path().join("layer").join(path)
    }
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }
    fn is_whiteout(&self, path: &str) -> bool {
        is_whiteout(&lstat(&self.at(path)).unwrap().unwrap())
    }
    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0u8; 1];
        rustix::fs::lgetxattr(self.at(path), OPAQUE, &mut value).is_ok() && value == *b"y"
    }
    /// Nothing beside the layer's folder was touched or added.
    fn outside_is_untouched(&self) -> bool {
        let names: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        let secret = self.dir.path().join("secret");
        names.len() == 2
            && fs::read_to_string(&secret).unwrap() == "secret"
            && fs::metadata(&secret).unwrap().nlink() == 1
            && fs::metadata(&secret).unwrap().uid() == 0
    }
}

#[test]
fn files_keep_owner_mode_time_and_attributes() {
    let layer = Archive::default()
        .dir("./", 0o751)
        .dir("d/", 0o2750)
        .file("d/f", "body")
        .member(EntryType::Regular, "d/suid", "", 0o4755, b"x")
        .pax("SCHILY.xattr.user.note", b"a\nb")
        .file("d/noted", "")
        .pax("mtime", b"1234567890.5")
        .file("d/dated", "")
        .symlink("l", "/etc/passwd")
        .hard_link("h", "d/f")
        .member(EntryType::Char, "null", "", 0o666, b"")
        .member(EntryType::Fifo, "pipe", "", 0o600, b"")
        .unpack();
    let meta = |path: &str| fs::symlink_metadata(layer.at(path)).unwrap();
    for (path, mode) in
        [("d", 0o2750), ("d/f", 0o644), ("d/suid", 0o4755), ("null", 0o666), ("pipe", 0o600), ("", 0o751)]
    {
        let found = meta(path);
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!((found.uid(), found.gid(), found.mtime()), (12, 34, 1_000_000_000), "{path}");
    }
    assert_eq!((meta("d/dated").mtime(), meta("d/dated").mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(meta("d/f").ino(), meta("h").ino());
    assert_eq!(fs::read_link(layer.at("l")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!((meta("l").uid(), meta("l").mtime()), (12, 1_000_000_000));
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(meta("pipe").file_type().is_fifo());
    let mut note = [0u8; 3];
    rustix::fs::lgetxattr(layer.at("d/noted"), "user.note", &mut note).unwrap();
    assert_eq!(&note, b"a\nb");
    assert_eq!(layer.outcome.as_ref().unwrap().implied.len(), 0);
}

#[test]
fn a_capability_survives_the_change_of_owner() {
    let capability = b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let layer =
        Archive::default().pax("SCHILY.xattr.security.capability", capability).file("ping", "").unpack();
    let mut found = [0u8; 20];
    rustix::fs::lgetxattr(layer.at("ping"), "security.capability", &mut found).unwrap();
    assert_eq!(&found, capability);
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    let layer = Archive::default()
        .file("dir/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file(".wh..wh.plnk", "")
        .file("kept", "kept")
        .file(".wh.kept", "")
        .file(".wh.again", "")
        .file("again", "again")
        .file(".wh.folder", "")
        .dir("folder", 0o755)
        .dir("other", 0o755)
        .file(".wh.other", "")
        .unpack();
    assert!(layer.is_whiteout("dir/gone"));
    assert!(layer.is_opaque("opaque") && layer.text("opaque/new") == "new");
    assert!(!layer.at(".wh..wh.plnk").exists());
    assert_eq!((layer.text("kept"), layer.text("again")), ("kept".into(), "again".into()));
    assert!(layer.is_opaque("folder"), "what was hidden before must stay hidden under the new folder");
    assert!(layer.is_opaque("other"));
}

#[test]
fn paths_that_lead_out_are_refused() {
    for name in ["../x", "a/../../x", "./../x", "/../x", "a/../.."] {
        let layer = Archive::default().file(name, "evil").unpack();
        assert!(matches!(&layer.outcome, Err(Error::Damaged(_))), "{name}: {:?}", layer.outcome);
        assert!(layer.outside_is_untouched(), "{name}");
    }
    let layer = Archive::default().hard_link("h", "../secret").unpack();
    assert!(matches!(layer.outcome, Err(Error::Damaged(_))) && layer.outside_is_untouched());
    let layer = Archive::default().file("..", "evil").unpack();
    assert!(matches!(layer.outcome, Err(Error::Damaged(_))) && layer.outside_is_untouched());
    let layer = Archive::default().file(".wh...", "").unpack();
    assert!(matches!(layer.outcome, Err(Error::Damaged(_))) && layer.outside_is_untouched());
}

#[test]
fn absolute_paths_are_paths_within_the_layer() {
    let layer = Archive::default().file("/etc/orlop-escape", "in").unpack();
    assert_eq!(layer.text("etc/orlop-escape"), "in");
    assert!(!Path::new("/etc/orlop-escape").exists());
}

#[test]
fn links_lead_nowhere_but_into_the_layer() {
    let host = tempfile::tempdir().unwrap();
    let target = host.path().to_str().unwrap().to_string();
    let layer = Archive::default()
        .symlink("abs", &target)
        .file("abs/file", "in")
        .symlink("up", "../../../..")
        .file("up/top", "in")
        .symlink("chain", "abs/../abs")
        .file("chain/second", "in")
        .file("final", "first")
        .symlink("link", &format!("{target}/new"))
        .file("link", "replaces the link")
        .unpack();
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0, "something was written to the host");
    assert_eq!(layer.text(&format!("{}/file", &target[1..])), "in");
    assert_eq!(layer.text("top"), "in");
    assert_eq!(layer.text(&format!("{}/second", &target[1..])), "in");
    assert_eq!(layer.text("link"), "replaces the link");
    assert!(layer.outside_is_untouched());
}

#[test]
fn a_hard_link_through_a_symbolic_link_finds_only_what_is_in_the_layer() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("shadow"), "host").unwrap();
    let target = host.path().to_str().unwrap();
    let layer = Archive::default().symlink("etc", target).hard_link("stolen", "etc/shadow").unpack();
    let unpacked = layer.outcome.as_ref().unwrap();
    assert_eq!(unpacked.foreign_links, [(b"stolen".to_vec(), b"etc/shadow".to_vec())]);
    assert!(!layer.at("stolen").exists());
    assert_eq!(fs::metadata(host.path().join("shadow")).unwrap().nlink(), 1);
}

#[test]
fn times_and_owners_are_not_set_through_links() {
    let host = tempfile::tempdir().unwrap();
    let before = fs::metadata(host.path()).unwrap();
    let target = host.path().to_str().unwrap();
    Archive::default().dir("d", 0o777).symlink("d", target).unpack().outcome.unwrap();
    Archive::default().symlink("d", target).dir("d", 0o777).unpack().outcome.unwrap();
    let after = fs::metadata(host.path()).unwrap();
    assert_eq!((before.mode(), before.uid(), before.mtime()), (after.mode(), after.uid(), after.mtime()));
}

#[test]
fn a_later_member_replaces_an_earlier_one_of_any_kind() {
    let layer = Archive::default()
        .file("a/b/c", "1")
        .file("a", "now a file")
        .file("x", "1")
        .dir("x", 0o755)
        .file("x/y", "2")
        .symlink("s", "x")
        .dir("s", 0o700)
        .file("s/own", "3")
        .file("same", "4")
        .hard_link("same", "same")
        .unpack();
    assert_eq!(layer.text("a"), "now a file");
    assert_eq!(layer.text("x/y"), "2");
    assert!(!layer.at("x/own").exists() && layer.text("s/own") == "3");
    assert_eq!(layer.text("same"), "4");
    assert_eq!(layer.outcome.as_ref().unwrap().implied.len(), 0, "what was implied is gone");
}

#[test]
fn an_archive_cannot_tell_overlayfs_what_to_believe() {
    let layer = Archive::default()
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc")
        .dir("d", 0o755)
        .pax("SCHILY.xattr.user.overlay.opaque", b"y")
        .dir("e", 0o755)
        .unpack();
    for path in ["d", "e"] {
        let names = super::super::inherit::xattrs(&layer.at(path)).unwrap();
        assert!(!names.iter().any(|(name, _)| name.windows(7).any(|w| w == b"overlay")), "{names:?}");
        let mut value = [0u8; 32];
        assert!(rustix::fs::lgetxattr(layer.at(path), "trusted.overlay.redirect", &mut value).is_err());
    }
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("holes")).unwrap();
    file.write_all_at(b"end", 300 << 20).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    let tar = std::process::Command::new("tar")
        .args(["--sparse", "--format=posix", "-cf", "-", "-C"])
        .arg(dir.path())
        .arg("holes")
        .output()
        .unwrap();
    let layer = Archive(tar.stdout).unpack();
    let meta = fs::metadata(layer.at("holes")).unwrap();
    assert_eq!(meta.len(), (300 << 20) + 3);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let mut end = [0u8; 4];
    File::open(layer.at("holes")).unwrap().read_exact_at(&mut end, (300 << 20) - 1).unwrap();
    assert_eq!(&end, b"\0end");
}

#[test]
fn limits_end_a_layer_that_never_ends() {
    let dir = tempfile::tempdir().unwrap();
    let unpack_with =
        |archive: Archive, limits| unpack(archive.0.as_slice(), dir.path(), limits).unwrap_err();
    let many = (0..20).fold(Archive::default(), |a, n| a.file(&format!("f{n}"), ""));
    let error = unpack_with(many, Limits { entries: 10, bytes: 1 << 20 });
    assert!(error.to_string().contains("more than 10 members"), "{error}");
    let large = Archive::default().file("large", &"x".repeat(2000));
    let error = unpack_with(large, Limits { entries: 10, bytes: 1000 });
    assert!(error.to_string().contains("larger than 1000 bytes"), "{error}");
    let deep = "d/".repeat(2000);
    let layer = Archive::default().pax("path", deep.as_bytes()).dir("x", 0o755).unpack();
    assert_eq!(layer.outcome.unwrap().implied.len(), 1999);
    let longer = "d/".repeat(3000);
    let layer = Archive::default().pax("path", longer.as_bytes()).dir("x", 0o755).unpack();
    assert!(layer.outcome.unwrap_err().to_string().contains("4096"));
    let ring = Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", "").unpack();
    assert!(matches!(ring.outcome, Err(Error::Damaged(_))), "{:?}", ring.outcome);
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            3 => Just("a".to_string()), 3 => Just("b".to_string()), 2 => Just("..".to_string()),
            1 => Just(".".to_string()), 1 => Just(String::new()), 1 => Just(".wh.a".to_string()),
            1 => Just(".wh..wh..opq".to_string()), 1 => Just("secret".to_string()),
        ],
        1..5,
    )
    .prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_sequence_of_members_reaches_outside(
        members in proptest::collection::vec((0u8..7, name(), name()), 1..12)
    ) {
        let archive = members.iter().fold(Archive::default(), |archive, (kind, name, link)| match kind {
            0 => archive.dir(name, 0o777),
            1 | 2 => archive.file(name, "evil"),
            3 => archive.symlink(name, link),
            4 => archive.symlink(name, &format!("/{link}")),
            5 => archive.hard_link(name, link),
            _ => archive.member(EntryType::Fifo, name, "", 0o600, b""),
        });
        let layer = archive.unpack();
        prop_assert!(layer.outside_is_untouched());
        if let Err(error) = &layer.outcome {
            prop_assert!(matches!(error, Error::Damaged(_)), "{:?}", error);
        }
    }
}
