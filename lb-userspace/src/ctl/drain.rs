//! `lbctl backend drain --wait`: a decision over what was seen ([`Watch`]), and the loop that looks.
//!
//! Flows of a draining backend become known as they send: its slots are learning, and a flow that has been silent
//! since before the drain is not tracked. So no live flow has to be there for a while, and where slots still
//! learn, that is said. With `--then` the backend is removed at the end.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    cli::backend::{Then, Wait},
    client::{is_not_found, path},
    exit::Failure,
    output::{Context, changed, plural},
    style::{Paint, Style},
    units,
};
use crate::api::view::{Backend, Changed, Service};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long no agent may answer in between, for example while it is restarted.
const ABSENCE: Duration = Duration::from_secs(30);

/// What has been seen so far.
#[derive(Debug)]
struct Watch {
    settle: Duration,
    deadline: Instant,
    /// When the drain was under way: counts of flows that began before say nothing of it.
    start: Instant,
    /// When the first count began since which there is no live flow.
    quiet_since: Option<Instant>,
    /// Whether the drain has shown in the backend's state.
    began: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Go on; how much longer no live flow must be seen, where none is.
    Waiting {
        settling: Option<Duration>,
    },
    Drained,
    /// The deadline has passed.
    DeadlinePassed,
    /// Somebody ended the drain.
    Undrained,
}

impl Watch {
    fn new(now: Instant, wait: &Wait) -> Self {
        // An overflow is a deadline that never comes near: a century will do.
        let deadline =
            now.checked_add(wait.timeout).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400));
        Self { settle: wait.settle, deadline, start: now, quiet_since: None, began: false }
    }

    fn observe(&mut self, now: Instant, backend: &Backend) -> Step {
        let in_use = matches!(backend.state.as_str(), "up" | "checking");
        if self.began && in_use {
            return Step::Undrained;
        }
        self.began |= !in_use;
        // The agent counts now and then, not whenever it is asked.
        let age = Duration::from_millis(backend.flows_age_ms.unwrap_or(0));
        let counted = now.checked_sub(age).filter(|counted| *counted >= self.start);
        if backend.flows > 0 || in_use {
            self.quiet_since = None;
        } else if let Some(counted) = counted {
            let since = *self.quiet_since.get_or_insert(counted);
            if counted.duration_since(since) >= self.settle {
                return Step::Drained;
            }
        }
        if now >= self.deadline {
            return Step::DeadlinePassed;
        }
        let left = |since| self.settle.saturating_sub(now.duration_since(since));
        Step::Waiting { settling: self.quiet_since.map(left) }
    }
}

/// Drains by the request `body`, and waits for the end of it.
pub async fn run(
    context: &Context,
    service: &str,
    name: &str,
    wait: &Wait,
    body: Value,
) -> Result<(), Failure> {
    let place = path(&["services", service, "backends", name]);
    let (_, change) = context.client.call::<Changed>(Method::PATCH, &place, Some(&body)).await?;
    let mut progress = Progress { context, line: String::new(), open: false };
    if !context.for_scripts() {
        context.print(&changed(&change, &context.style))?;
    }
    let mut watch = Watch::new(Instant::now(), wait);
    let mut answered = Instant::now();
    let name = format!("{service}/{name}");
    loop {
        let (value, backend) = match context.client.get::<Backend>(&place).await {
            Ok(seen) => seen,
            Err(Failure::Unreachable(_))
                if answered.elapsed() < ABSENCE && Instant::now() < watch.deadline =>
            {
                progress.show("the agent does not answer; its data path goes on, waiting for it")?;
                sleep(INTERVAL).await;
                continue;
            }
            Err(failure) if is_not_found(&failure) => {
                progress.end()?;
                return Err(Failure::Failed(format!("backend {name} was removed while it drained")));
            }
            Err(failure) => {
                progress.end()?;
                return Err(failure);
            }
        };
        answered = Instant::now();
        match watch.observe(answered, &backend) {
            Step::Waiting { settling } => progress.show(&waiting(&backend, settling))?,
            Step::Drained => {
                progress.end()?;
                let learning = learning_ends_in(context, service, &backend).await;
                let text = drained(&backend, wait.settle, learning, wait.then, &context.style);
                return match wait.then {
                    None => finish(context, &value, &text),
                    Some(Then::Remove | Then::RemoveAtDeadline) => {
                        remove(context, &place, value, &text).await
                    }
                };
            }
            Step::DeadlinePassed if wait.then == Some(Then::RemoveAtDeadline) => {
                progress.end()?;
                let text = context.style.paint(&cut(&backend, wait), Paint::Warn) + "\n";
                return remove(context, &place, value, &text).await;
            }
            Step::DeadlinePassed => {
                progress.end()?;
                if context.for_scripts() {
                    finish(context, &value, "")?;
                }
                return Err(Failure::Deadline(late(&backend, wait)));
            }
            Step::Undrained => {
                progress.end()?;
                return Err(Failure::Failed(format!(
                    "another client ended the drain of backend {name}: it is {}",
                    backend.state
                )));
            }
        }
        sleep(INTERVAL.min(watch.deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// When the last slot of the service stops learning, where that matters and is known.
async fn learning_ends_in(context: &Context, service: &str, backend: &Backend) -> Option<Duration> {
    if backend.learning_slots == 0 || context.for_scripts() {
        return None;
    }
    let (_, service) = context.client.get::<Service>(&path(&["services", service])).await.ok()?;
    service.learning_ends_in.map(Duration::from_secs)
}

fn finish(context: &Context, value: &Value, text: &str) -> Result<(), Failure> {
    if context.for_scripts() { context.value(value) } else { context.print(text) }
}

/// Removes the backend that was waited for. `seen`: how it was seen last.
async fn remove(context: &Context, place: &str, seen: Value, text: &str) -> Result<(), Failure> {
    if !context.for_scripts() {
        context.print(text)?;
    }
    let (value, change) = context.client.call::<Changed>(Method::DELETE, place, None).await?;
    if context.for_scripts() {
        return context.value(&json!({ "backend": seen, "removed": value }));
    }
    context.print(&changed(&change, &context.style))
}

fn flows(n: u64) -> String {
    plural(n, "live flow", "live flows")
}

/// Live flows, and how many more are idle.
fn flows_of(backend: &Backend) -> String {
    match backend.flows_idle {
        0 => flows(backend.flows),
        idle => format!("{} ({idle} idle not counted)", flows(backend.flows)),
    }
}

fn waiting(backend: &Backend, settling: Option<Duration>) -> String {
    let learning = match backend.learning_slots {
        0 => String::new(),
        n => format!(", {} still learning", plural(n.into(), "slot", "slots")),
    };
    let settling = match settling {
        None => String::new(),
        // Whole seconds, so that off a terminal a line comes for each second and not for each look.
        Some(left) => format!(", done in {} s if it stays so", left.as_secs_f64().ceil()),
    };
    format!("{} left{learning}{settling}", flows_of(backend))
}

fn drained(
    backend: &Backend,
    settle: Duration,
    learning: Option<Duration>,
    then: Option<Then>,
    style: &Style,
) -> String {
    let Backend { service, name, learning_slots, flows_idle, .. } = backend;
    let settle = units::duration(settle);
    let mut text =
        style.paint(&format!("backend {service}/{name} is drained: no live flow for {settle}"), Paint::Good);
    text.push('\n');
    if *flows_idle > 0 {
        let (idle, kept) = (
            plural(*flows_idle, "idle flow", "idle flows"),
            match then {
                None => "kept for it",
                Some(_) => "cut by its removal if still in use",
            },
        );
        let note = format!("note: {idle} that sent nothing for idle_after did not count, and are {kept}");
        text.push_str(&style.paint(&note, Paint::Warn));
        text.push('\n');
    }
    if *learning_slots > 0 {
        let slots = plural((*learning_slots).into(), "slot still learns", "slots still learn");
        let until = learning.map(|left| format!(", at most {}", units::duration(left))).unwrap_or_default();
        let kept = match then {
            None => format!("are kept for it until the window ends{until}"),
            Some(_) => "end with its removal; a longer --settle waits for them".to_owned(),
        };
        text.push_str(&style.paint(
            &format!(
                "note: {slots}: connections that have been silent since before the drain may still exist, and {kept}"
            ),
            Paint::Warn,
        ));
        text.push('\n');
    }
    text
}

fn late(backend: &Backend, wait: &Wait) -> String {
    let Backend { service, name, .. } = backend;
    let timeout = units::duration(wait.timeout);
    let left = match backend.flows {
        0 => format!("no live flow left, but not yet for {}", units::duration(wait.settle)),
        _ => format!("{} left", flows_of(backend)),
    };
    format!("{timeout} passed and backend {service}/{name} is not drained: {left}; it goes on draining")
}

fn cut(backend: &Backend, wait: &Wait) -> String {
    let Backend { service, name, .. } = backend;
    let timeout = units::duration(wait.timeout);
    format!("{timeout} passed: backend {service}/{name} is removed with {} left", flows_of(backend))
}

/// One line that is written over on a terminal, a line for each change elsewhere, nothing for scripts.
struct Progress<'a> {
    context: &'a Context,
    line: String,
    /// Whether the cursor is behind an unfinished line.
    open: bool,
}

impl Progress<'_> {
    fn show(&mut self, line: &str) -> Result<(), Failure> {
        if self.context.for_scripts() || line == self.line {
            return Ok(());
        }
        line.clone_into(&mut self.line);
        if self.context.terminal {
            self.open = true;
            self.context.print(&format!("\r\u{1b}[K{line}"))
        } else {
            self.context.print(&format!("{line}\n"))
        }
    }

    fn end(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.open) { self.context.print("\r\u{1b}[K") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::backend::tests::backend;

    fn draining(flows: u64) -> Backend {
        Backend { flows, ..backend("web-1", "draining") }
    }

    fn wait(timeout: u64, settle: u64) -> Wait {
        let (timeout, settle) = (Duration::from_secs(timeout), Duration::from_secs(settle));
        Wait { wait: true, timeout, settle, then: None }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn drained_is_no_live_flow_for_the_whole_settle_time() {
        let start = Instant::now();
        let mut watch = Watch::new(start, &wait(600, 15));
        assert_eq!(watch.observe(start, &draining(2)), Step::Waiting { settling: None });
        let settling = |s| Step::Waiting { settling: Some(Duration::from_secs(s)) };
        assert_eq!(watch.observe(after(start, 1), &draining(0)), settling(15));
        assert_eq!(watch.observe(after(start, 10), &draining(0)), settling(6));
        // A flow that was silent shows itself: the settle time begins again.
        assert_eq!(watch.observe(after(start, 11), &draining(1)), Step::Waiting { settling: None });
        assert_eq!(watch.observe(after(start, 12), &draining(0)), settling(15));
        assert_eq!(watch.observe(after(start, 26), &draining(0)), settling(1));
        assert_eq!(watch.observe(after(start, 27), &draining(0)), Step::Drained);
    }

    #[test]
    fn only_counts_since_the_drain_settle_it() {
        let start = Instant::now();
        let counted = |age| Backend { flows_age_ms: Some(age), ..draining(0) };
        let mut watch = Watch::new(start, &wait(600, 0));
        assert_eq!(watch.observe(after(start, 2), &counted(2001)), Step::Waiting { settling: None });
        assert_eq!(watch.observe(after(start, 3), &counted(3000)), Step::Drained);
        let mut watch = Watch::new(start, &wait(600, 15));
        assert!(matches!(
            watch.observe(after(start, 1), &counted(1000)),
            Step::Waiting { settling: Some(_) }
        ));
        // Time has passed, but the flows were not counted since.
        assert!(matches!(
            watch.observe(after(start, 20), &counted(20_000)),
            Step::Waiting { settling: Some(_) }
        ));
        assert!(matches!(
            watch.observe(after(start, 21), &counted(6001)),
            Step::Waiting { settling: Some(_) }
        ));
        assert_eq!(watch.observe(after(start, 21), &counted(6000)), Step::Drained);
    }

    #[test]
    fn the_deadline_ends_it_with_and_without_flows() {
        let start = Instant::now();
        let mut watch = Watch::new(start, &wait(10, 15));
        assert_eq!(
            watch.observe(after(start, 9), &draining(0)),
            Step::Waiting { settling: Some(Duration::from_secs(15)) }
        );
        assert_eq!(watch.observe(after(start, 10), &draining(0)), Step::DeadlinePassed);
        assert_eq!(watch.observe(after(start, 10), &draining(5)), Step::DeadlinePassed);
        assert!(
            late(&draining(5), &wait(600, 15))
                .starts_with("10m passed and backend web/web-1 is not drained: 5 live flows left")
        );
        assert!(late(&draining(0), &wait(600, 15)).contains("no live flow left, but not yet for 15s"));
    }

    #[test]
    fn drained_at_the_deadline_is_drained() {
        let start = Instant::now();
        let mut watch = Watch::new(start, &wait(15, 15));
        watch.observe(start, &draining(0));
        assert_eq!(watch.observe(after(start, 15), &draining(0)), Step::Drained);
    }

    #[test]
    fn a_drain_that_somebody_ends_is_no_success() {
        let start = Instant::now();
        let mut watch = Watch::new(start, &wait(600, 0));
        assert_eq!(
            watch.observe(start, &backend("web-1", "up")),
            Step::Waiting { settling: None },
            "not begun yet"
        );
        let mut watch = Watch::new(start, &wait(600, 15));
        watch.observe(start, &draining(0));
        assert_eq!(watch.observe(start, &backend("web-1", "up")), Step::Undrained);
    }

    #[test]
    fn a_drain_of_a_down_backend_waits_for_flows_only() {
        let start = Instant::now();
        let down = Backend { flows: 0, ..backend("web-1", "down") };
        assert_eq!(Watch::new(start, &wait(600, 0)).observe(start, &down), Step::Drained);
    }

    #[test]
    fn idle_flows_are_not_waited_for_and_are_said() {
        let start = Instant::now();
        let idle = Backend { flows_idle: 125, ..draining(0) };
        assert_eq!(Watch::new(start, &wait(600, 0)).observe(start, &idle), Step::Drained);
        let still = Backend { flows_idle: 1, ..draining(2) };
        assert!(waiting(&still, None).starts_with("2 live flows (1 idle not counted) left"));
        let said = |then| drained(&idle, Duration::from_secs(15), None, then, &Style::plain());
        assert!(
            said(None).contains(
                "note: 125 idle flows that sent nothing for idle_after did not count, and are kept for it\n"
            ),
            "{}",
            said(None)
        );
        assert!(said(Some(Then::Remove)).contains("cut by its removal if still in use"));
    }

    #[test]
    fn a_timeout_without_end_is_accepted() {
        let start = Instant::now();
        let forever = Wait { timeout: Duration::MAX, ..wait(0, 15) };
        assert_eq!(
            Watch::new(start, &forever).observe(start, &draining(1)),
            Step::Waiting { settling: None }
        );
    }

    #[test]
    fn what_is_said_on_the_way_and_at_the_end() {
        assert_eq!(waiting(&draining(1), None), "1 live flow left, 2 slots still learning");
        let quiet = Backend { learning_slots: 0, ..draining(0) };
        assert_eq!(
            waiting(&quiet, Some(Duration::from_millis(14_500))),
            "0 live flows left, done in 15 s if it stays so"
        );
        let settle = Duration::from_secs(15);
        assert_eq!(
            drained(&quiet, settle, None, None, &Style::plain()),
            "backend web/web-1 is drained: no live flow for 15s\n"
        );
        let text = drained(&draining(0), settle, Some(Duration::from_secs(3000)), None, &Style::plain());
        assert!(text.contains("note: 2 slots still learn: connections that have been silent"), "{text}");
        assert!(text.ends_with("until the window ends, at most 50m\n"), "{text}");
        let text = drained(&draining(0), settle, None, Some(Then::Remove), &Style::plain());
        assert!(text.ends_with("end with its removal; a longer --settle waits for them\n"), "{text}");
        assert_eq!(
            cut(&draining(5), &wait(600, 15)),
            "10m passed: backend web/web-1 is removed with 5 live flows left"
        );
    }
}
