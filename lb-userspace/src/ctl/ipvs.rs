//! `lbctl ipvs`: services and backends in the columns of `ipvsadm -Ln`, for those who know them and for scripts that read them.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{cli::ipvs::Ipvs, exit::Failure, output::Context, style::clean};
use crate::api::view::{Backend, Service, Status, Totals};

/// Between the two looks of `--rate`.
const LOOK: Duration = Duration::from_secs(1);

/// What the columns are of.
enum Columns<'a> {
    Connections,
    Counters,
    /// Totals of the look before, by the names of service and backend, and how many seconds ago it was.
    Rates(&'a HashMap<String, Totals>, f64),
}

pub async fn run(context: &Context, arguments: &Ipvs) -> Result<(), Failure> {
    let Ipvs { list: _, numeric: _, stats, rate, exact, tcp_service, udp_service } = arguments;
    let wanted = match (tcp_service, udp_service) {
        (Some(address), _) => Some(format!("tcp/{address}")),
        (_, Some(address)) => Some(format!("udp/{address}")),
        (None, None) => None,
    };
    let (_, status) = context.client.get::<Status>("/v1/status").await?;
    let (mut before, mut looked) = (HashMap::new(), Instant::now());
    if *rate {
        let (_, services) = context.client.get::<Vec<Service>>("/v1/services").await?;
        (before, looked) = (totals(&services), Instant::now());
        sleep(LOOK).await;
    }
    let (_, mut services) = context.client.get::<Vec<Service>>("/v1/services").await?;
    if let Some(wanted) = wanted {
        services.retain(|service| service.listen == wanted);
        if services.is_empty() {
            return Err(Failure::NoMatch(format!(
                "no service listens on {wanted}; `lbctl service list` shows all"
            )));
        }
    }
    let columns = match (stats, rate) {
        (_, true) => Columns::Rates(&before, looked.elapsed().as_secs_f64()),
        (true, _) => Columns::Counters,
        _ => Columns::Connections,
    };
    let flows = status.limits.iter().find(|limit| limit.name == "flows").map_or(0, |limit| limit.size);
    let head = format!("IP Virtual Server version {} (size={flows})\n", clean(&status.version));
    context.print(&(head + &table(&services, &columns, *exact)))
}

fn totals(services: &[Service]) -> HashMap<String, Totals> {
    let backends = services.iter().flat_map(|service| &service.backends);
    let backends = backends.map(|backend| (format!("{}/{}", backend.service, backend.name), backend.totals));
    services.iter().map(|service| (service.name.clone(), service.totals)).chain(backends).collect()
}

fn table(services: &[Service], columns: &Columns<'_>, exact: bool) -> String {
    let mut text = match columns {
        Columns::Connections => "Prot LocalAddress:Port Scheduler Flags\n  \
                                 -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
            .to_owned(),
        Columns::Counters => head(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rates(..) => head(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
    };
    for service in services {
        let (protocol, listen) = service.listen.split_once('/').unwrap_or(("", &service.listen));
        let name = clean(&format!("{}  {listen}", protocol.to_ascii_uppercase()));
        match columns {
            Columns::Connections => text.push_str(&format!("{name} {}\n", scheduler(service))),
            _ => text.push_str(&format!(
                "{name:<33}{}\n",
                numbers(&service.name, &service.totals, columns, exact)
            )),
        }
        let port = listen.rsplit_once(':').map_or("0", |(_, port)| port);
        for backend in &service.backends {
            let address = match backend.address.contains(':') {
                true => format!("[{}]:{port}", backend.address),
                false => format!("{}:{port}", backend.address),
            };
            let name = format!("  -> {:<28}", clean(&address));
            match columns {
                Columns::Connections => text.push_str(&format!("{name} {}\n", connections(service, backend))),
                _ => {
                    let key = format!("{}/{}", backend.service, backend.name);
                    text.push_str(&format!("{name}{}\n", numbers(&key, &backend.totals, columns, exact)));
                }
            }
        }
    }
    text
}

fn head(columns: [&str; 5]) -> String {
    let [a, b, c, d, e] = columns;
    format!("{:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n  -> RemoteAddress:Port\n", "Prot LocalAddress:Port")
}

/// The scheduler of IPVS that does what comes nearest.
fn scheduler(service: &Service) -> &str {
    match service.balance.as_str() {
        "hash" if service.hash.starts_with("source") => "sh",
        "hash" => "mh",
        "round-robin" => "wrr",
        "least-connections" => "wlc",
        other => other,
    }
}

fn connections(service: &Service, backend: &Backend) -> String {
    let forward = if service.encapsulation == "l2" { "Route" } else { "Tunnel" };
    let Backend { effective_weight: weight, flows, flows_idle, .. } = backend;
    format!("{forward:<7} {weight:<6} {flows:<10} {flows_idle:<10}")
}

/// The five numbers of a row. Replies do not pass the balancer.
fn numbers(name: &str, now: &Totals, columns: &Columns<'_>, exact: bool) -> String {
    let Totals { packets, bytes, new_connections } = *now;
    let [connections, packets, bytes] = match columns {
        Columns::Rates(before, seconds) => {
            let before = before.get(name).copied().unwrap_or(*now);
            let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
            [
                rate(new_connections, before.new_connections),
                rate(packets, before.packets),
                rate(bytes, before.bytes),
            ]
        }
        _ => [new_connections, packets, bytes],
    };
    [connections, packets, 0, bytes, 0].map(|number| large(number, exact)).concat()
}

/// A blank and a number in eight characters.
fn large(number: u64, exact: bool) -> String {
    match number {
        _ if exact => format!(" {number:>8}"),
        0..100_000_000 => format!(" {number:>8}"),
        100_000_000..1_000_000_000 => format!(" {:>7}K", number / 1_000),
        1_000_000_000..100_000_000_000 => format!(" {:>7}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!(" {:>7}G", number / 1_000_000_000),
        _ => format!(" {:>7}T", number / 1_000_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::{backend::tests::backend, service::tests::service};

    fn services() -> Vec<Service> {
        let mut web =
            Service { backends: vec![backend("web-1", "up"), backend("web-2", "down")], ..service() };
        "tcp/203.0.113.10:443".clone_into(&mut web.listen);
        "five-tuple".clone_into(&mut web.hash);
        "hash".clone_into(&mut web.balance);
        web.totals = Totals { packets: 123_456_789, bytes: 2_000_000_000_000, new_connections: 99_999_999 };
        let mut dns = Service { name: "dns".into(), ..web.clone() };
        "udp/[2001:db8::10]:53".clone_into(&mut dns.listen);
        "source/48".clone_into(&mut dns.hash);
        "l2".clone_into(&mut dns.encapsulation);
        dns.backends = vec![Backend { address: "fd00::11".into(), ..backend("dns-1", "up") }];
        vec![web, dns]
    }

    #[test]
    fn connections_are_in_the_columns_of_ipvsadm() {
        let expected = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  203.0.113.10:443 mh
  -> 10.0.0.11:443                Tunnel  100    3          0         
  -> 10.0.0.11:443                Tunnel  0      3          0         
UDP  [2001:db8::10]:53 sh
  -> [fd00::11]:53                Route   100    3          0         
";
        assert_eq!(table(&services(), &Columns::Connections, false), expected);
    }

    #[test]
    fn counters_are_cut_where_they_have_more_than_eight_digits() {
        let expected = "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  203.0.113.10:443             99999999  123456K        0    2000G        0
  -> 10.0.0.11:443                       5      500        0     2048        0
";
        let text = table(&services(), &Columns::Counters, false);
        assert!(text.starts_with(expected), "{text}");
        assert!(
            table(&services(), &Columns::Counters, true)
                .contains(" 123456789        0 2000000000000        0\n")
        );
        assert_eq!(large(150_000_000_000_000, false), "     150T");
        assert_eq!(large(1_500_000_000, false), "    1500M");
    }

    #[test]
    fn rates_are_what_came_in_a_second() {
        let now = services();
        let mut before = totals(&now);
        before.insert("web/web-1".into(), Totals { packets: 100, bytes: 1048, new_connections: 1 });
        before.insert("dns".into(), Totals { packets: u64::MAX, ..Totals::default() });
        let text = table(&now, &Columns::Rates(&before, 2.0), false);
        assert!(
            text.starts_with(
                "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("  -> 10.0.0.11:443                       2      200        0      500        0\n"),
            "{text}"
        );
        assert!(
            text.contains("UDP  [2001:db8::10]:53            50000000"),
            "counters that began again: {text}"
        );
    }
}
