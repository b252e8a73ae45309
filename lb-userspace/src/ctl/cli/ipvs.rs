//! `lbctl ipvs` as typed: the options of `ipvsadm -L`.

use std::net::SocketAddr;

use clap::Args;

#[derive(Args, Debug)]
pub struct Ipvs {
    /// List, which it does in any case
    #[arg(short = 'L', short_alias = 'l', long)]
    pub list: bool,
    /// Numbers for addresses and ports, which they are in any case
    #[arg(short, long)]
    pub numeric: bool,
    /// Counters since the maps were made
    #[arg(long, conflicts_with = "rate")]
    pub stats: bool,
    /// What came in a second, looked at for one
    #[arg(long)]
    pub rate: bool,
    /// Large numbers whole, without K, M, G
    #[arg(long)]
    pub exact: bool,
    /// Only this TCP service
    #[arg(short, long, value_name = "ADDRESS:PORT", conflicts_with = "udp_service")]
    pub tcp_service: Option<SocketAddr>,
    /// Only this UDP service
    #[arg(short, long, value_name = "ADDRESS:PORT")]
    pub udp_service: Option<SocketAddr>,
}
