use super::ethtool::{read_fields, read_filters};

#[test]
fn what_ethtool_says_is_understood() {
    let said = "TCP over IPV4 flows use these fields for computing Hash flow key:\nIP SA\nIP DA\n\
                L4 bytes 0 & 1 [TCP/UDP src port]\nL4 bytes 2 & 3 [TCP/UDP dst port]\n\n";
    assert_eq!(read_fields(said).as_deref(), Some("sdfn"));
    let one = "UDP over IPV4 flows use these fields for computing Hash flow key:\nIP SA\n\n";
    assert_eq!(read_fields(one).as_deref(), Some("s"));
    assert_eq!(
        read_fields(
            "TCP over IPV4 flows use these fields for computing Hash flow key:\nGTP TEID\n"
        ),
        None
    );
    assert_eq!(read_fields("All flows discarded\n"), None);
    let filters = "4 RX rings available\nTotal 2 rules\n\nFilter: 2045\n\tRule Type: TCP over IPv4\n\
        \tSrc IP addr: 0.0.0.0 mask: 255.255.255.255\n\tDest IP addr: 192.0.2.11 mask: 0.0.0.0\n\tTOS: 0x0 mask: 0xff\n\
        \tSrc port: 0 mask: 0xffff\n\tDest port: 0 mask: 0xffff\n\tAction: Direct to queue 3\n\n\
        Filter: 2046\n\tRule Type: UDP over IPv4\n\tSrc IP addr: 0.0.0.0 mask: 255.255.255.255\n\
        \tDest IP addr: 192.0.2.11 mask: 0.0.0.0\n\tTOS: 0x0 mask: 0xff\n\tSrc port: 0 mask: 0xffff\n\
        \tDest port: 53 mask: 0x0\n\tAction: Direct to queue 3\n";
    assert_eq!(read_filters(filters), [("tcp4", [192, 0, 2, 11].into(), 3)]);
}
