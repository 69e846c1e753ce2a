//! A progress bar on standard error, when that is a terminal; silent otherwise.

use indicatif::ProgressBar;
use indicatif::ProgressStyle;

const TEMPLATE: &str =
    "{msg:8} [{bar:40}] {binary_bytes:>10} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";

/// One bar; removed when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for `bytes` bytes of work.
    pub fn new(what: &'static str, bytes: u64) -> Self {
        let bar = ProgressBar::new(bytes);
        let style = ProgressStyle::with_template(TEMPLATE);
        bar.set_style(style.expect("the template is a constant that parses"));
        bar.set_message(what);
        Self { bar }
    }

    /// So many bytes are done.
    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
