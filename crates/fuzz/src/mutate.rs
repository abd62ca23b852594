//! Mutations of seeds without feedback, the same ones in every run: for the tests, where libFuzzer is not at hand.

/// A small generator (xorshift64*), so that a run can be repeated.
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
}

/// What is often at the edge of something.
const EDGES: &[&str] = &[
    "",
    "0",
    "-1",
    "1",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "0.1",
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\"\\u0000\"",
    "é",
    "\u{1f600}",
    "\\",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    ".",
    "*",
    "&a",
    "*a",
    "!",
    "%",
    "/",
    "~1",
    "$patch",
    "\n",
    "\n%%\n",
    " ",
    "\t",
    "\0",
    "-",
    "+",
];

/// The words of all seeds: what a mutation puts in where it does not invent.
pub fn words(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = seeds
        .iter()
        .flat_map(|s| s.split(|b| !(b.is_ascii_alphanumeric() || b"$/-_.".contains(b))))
        .filter(|w| w.len() > 1)
        .map(<[u8]>::to_vec)
        .collect();
    words.sort();
    words.dedup();
    words.extend(EDGES.iter().map(|e| e.as_bytes().to_vec()));
    words
}

/// One to eight changes of one of the seeds. No longer than 64 KiB.
pub fn mutation(dice: &mut Dice, seeds: &[Vec<u8>], words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = seeds.get(dice.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=dice.below(8) {
        let (from, to) = span(dice, &out);
        match dice.below(9) {
            0 if !out.is_empty() => {
                let at = dice.below(out.len());
                out[at] ^= 1 << dice.below(8);
            }
            1 => {
                out.splice(from..to, []);
            }
            2 => {
                let piece = out[from..to].to_vec();
                let at = dice.below(out.len() + 1);
                out.splice(at..at, piece);
            }
            3 => {
                // Again and again: nesting, or length.
                let piece = out[from..to].to_vec().repeat(1 << dice.below(9));
                out.splice(from..to, piece);
            }
            4 => {
                let other = &seeds[dice.below(seeds.len())];
                let (a, b) = span(dice, other);
                out.splice(from..to, other[a..b].iter().copied());
            }
            5 => out.truncate(from),
            _ => {
                let word = &words[dice.below(words.len())];
                let (from, to) = word_at(&out, from);
                let to = if dice.below(2) == 0 { from } else { to };
                out.splice(from..to, word.iter().copied());
            }
        }
        out.truncate(64 << 10);
    }
    out
}

fn span(dice: &mut Dice, bytes: &[u8]) -> (usize, usize) {
    let (from, longest) = (dice.below(bytes.len() + 1), 1 << dice.below(8));
    (from, (from + dice.below(longest)).min(bytes.len()))
}

/// The word around a place.
fn word_at(bytes: &[u8], at: usize) -> (usize, usize) {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'.';
    let from = bytes[..at].iter().rposition(|b| !is_word(b)).map_or(0, |p| p + 1);
    let to = bytes[at..].iter().position(|b| !is_word(b)).map_or(bytes.len(), |p| at + p);
    (from, to)
}
