package packet

import (
	"encoding/hex"
	"strings"
)

// sample is one whole frame, header by header, and what Parse finds in it.
type sample struct {
	name string
	b    []byte
	want Info
}

// raw joins hexadecimal pieces; blanks are for the reader.
func raw(pieces ...string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(pieces, ""), " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// samples are good packets: 10.77.0.2 and fd77::2 ask 10.77.0.1 and fd77::1. All
// checksums that are sent are right.
var samples = []sample{
	{
		"v4 udp",
		raw(
			"45000020 12344000 401113fd 0a4d0002 0a4d0001", // IPv4, 32 bytes, DF, ttl 64, UDP
			"9c410035 000c6ff2",                            // UDP 40001 > 53, 12 bytes
			"70696e67",                                     // data
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 20, Payload: 28, Length: 32, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 udp without data",
		raw(
			"4500001c 12344000 40111401 0a4d0002 0a4d0001", // IPv4, 28 bytes, DF, UDP
			"9c410035 00084ecb",                            // UDP 40001 > 53, 8 bytes
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 20, Payload: 28, Length: 28, size: 0, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 udp without checksum",
		raw(
			"45000020 12344000 401113fd 0a4d0002 0a4d0001", // IPv4, 32 bytes, DF, UDP
			"9c410035 000c0000",                            // UDP 40001 > 53, checksum 0
			"70696e67",                                     // data
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 20, Payload: 28, Length: 32, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 udp shorter than its packet",
		raw(
			"45000024 12344000 401113f9 0a4d0002 0a4d0001", // IPv4, 36 bytes, DF, UDP
			"9c410035 000c6ff2",                            // UDP 40001 > 53, 12 bytes
			"70696e67",                                     // data
			"deadbeef",                                     // 4 bytes that are of the packet, not of the datagram
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 20, Payload: 28, Length: 36, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 udp with padding",
		raw(
			"45000020 12344000 401113fd 0a4d0002 0a4d0001", // IPv4, 32 bytes, DF, UDP
			"9c410035 000c6ff2",                            // UDP 40001 > 53, 12 bytes
			"70696e67",                                     // data
			"ffffff",                                       // padding of the frame
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 20, Payload: 28, Length: 32, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 tcp syn",
		raw(
			"4500003c 12344000 400613ec 0a4d0002 0a4d0001",                                              // IPv4, 60 bytes, DF, TCP
			"9c410050 01020304 00000000 a002faf0 97da0000 020405b4 0402080a 00000001 00000000 01030307", // TCP 40001 > 80, SYN, MSS 1460, SACK, timestamps, window scale 7
		),
		Info{Kind: TCP, Version: 4, Proto: 6, L4: 20, Payload: 60, Length: 60, size: 0, SrcPort: 40001, DstPort: 80, TCPFlags: SYN},
	},
	{
		"v4 tcp data",
		raw(
			"4500002c 12344000 400613fc 0a4d0002 0a4d0001", // IPv4, 44 bytes, DF, TCP
			"9c410050 01020304 00000009 5018faf0 20ca0000", // TCP 40001 > 80, PSH ACK
			"70696e67", // data
		),
		Info{Kind: TCP, Version: 4, Proto: 6, L4: 20, Payload: 40, Length: 44, size: 4, SrcPort: 40001, DstPort: 80, TCPFlags: PSH | ACK},
	},
	{
		"v4 options",
		raw(
			"46000024 12344000 40117ef4 0a4d0002 0a4d0001 94040000", // IPv4, 36 bytes, UDP, router alert
			"9c410035 000c6ff2", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 24, Payload: 32, Length: 36, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 option beyond the header",
		raw(
			"46000024 12344000 40117ef3 0a4d0002 0a4d0001 94050000", // IPv4, 36 bytes, UDP, router alert of 5 bytes in 4
			"9c410035 000c6ff2", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: Other, Version: 4, Proto: 17, L4: 24, Payload: 24, Length: 36, size: 12},
	},
	{
		"v4 option without a length",
		raw(
			"46000024 12344000 40111064 0a4d0002 0a4d0001 01010194", // IPv4, 36 bytes, UDP, NOP NOP NOP and the first byte of a router alert
			"9c410035 000c6ff2", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: Other, Version: 4, Proto: 17, L4: 24, Payload: 24, Length: 36, size: 12},
	},
	{
		"v4 option of length 1",
		raw(
			"46000024 12344000 40117ef7 0a4d0002 0a4d0001 94010000", // IPv4, 36 bytes, UDP, router alert of 1 byte
			"9c410035 000c6ff2", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: Other, Version: 4, Proto: 17, L4: 24, Payload: 24, Length: 36, size: 12},
	},
	{
		"v4 options ended early",
		raw(
			"46000024 12344000 401112d0 0a4d0002 0a4d0001 0094ff94", // IPv4, 36 bytes, UDP, end of options, then rubbish
			"9c410035 000c6ff2", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 4, Proto: 17, L4: 24, Payload: 32, Length: 36, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v4 first fragment",
		raw(
			"45000024 12342000 401133f9 0a4d0002 0a4d0001", // IPv4, 36 bytes, MF, offset 0, UDP
			"9c410035 00641234",                            // UDP 40001 > 53, 100 bytes
			"70696e67 70696e67",                            // data
		),
		Info{Kind: Fragment, Version: 4, Proto: 17, L4: 20, Payload: 20, Length: 36, size: 16},
	},
	{
		"v4 later fragment",
		raw(
			"4500001c 12342002 401133ff 0a4d0002 0a4d0001", // IPv4, 28 bytes, MF, offset 16, UDP
			"70696e67 70696e67",                            // data
		),
		Info{Kind: Fragment, Version: 4, Proto: 17, L4: 20, Payload: 20, Length: 28, size: 8},
	},
	{
		"v4 last fragment",
		raw(
			"45000017 12340003 40115403 0a4d0002 0a4d0001", // IPv4, 23 bytes, offset 24, UDP
			"616263", // data
		),
		Info{Kind: Fragment, Version: 4, Proto: 17, L4: 20, Payload: 20, Length: 23, size: 3},
	},
	{
		"v4 last fragment at the limit",
		raw(
			"4500001f 12341ffc 40113402 0a4d0002 0a4d0001", // IPv4, 31 bytes, offset 65504, UDP: 65535 bytes in all
			"61626364 65666768 696a6b",                     // data
		),
		Info{Kind: Fragment, Version: 4, Proto: 17, L4: 20, Payload: 20, Length: 31, size: 11},
	},
	{
		"v4 echo",
		raw(
			"45000020 12344000 4001140d 0a4d0002 0a4d0001", // IPv4, 32 bytes, DF, ICMP
			"08001927 00070001",                            // ICMP echo, id 7, sequence 1
			"70696e67",                                     // data
		),
		Info{Kind: ICMP, Version: 4, Proto: 1, L4: 20, Payload: 28, Length: 32, size: 4, ICMPType: 8},
	},
	{
		"v4 fragmentation needed",
		raw(
			"45000038 12340000 400153f5 0a4d0002 0a4d0001", // IPv4, 56 bytes, ICMP
			"0304eaaa 000005dc",                            // ICMP unreachable, fragmentation needed, MTU 1500
			"45000020 12344000 401113fd 0a4d0002 0a4d0001", // the IPv4 header it is about
			"9c410035 000c6ff2",                            // the UDP header it is about
		),
		Info{Kind: Link, Version: 4, Proto: 1, L4: 20, Payload: 28, Length: 56, size: 28, ICMPType: 3, ICMPCode: 4},
	},
	{
		"v4 port unreachable",
		raw(
			"45000038 12340000 400153f5 0a4d0002 0a4d0001", // IPv4, 56 bytes, ICMP
			"0303f087 00000000",                            // ICMP unreachable, port
			"45000020 12344000 401113fd 0a4d0002 0a4d0001", // the IPv4 header it is about
			"9c410035 000c6ff2",                            // the UDP header it is about
		),
		Info{Kind: ICMP, Version: 4, Proto: 1, L4: 20, Payload: 28, Length: 56, size: 28, ICMPType: 3, ICMPCode: 3},
	},
	{
		"v4 igmp",
		raw(
			"46000020 12340000 0102fe07 0a4d0002 0a4d0001 94040000", // IPv4, 32 bytes, IGMP, router alert
			"16000904 e00000fb", // IGMPv2 report of 224.0.0.251
		),
		Info{Kind: Other, Version: 4, Proto: 2, L4: 24, Payload: 24, Length: 32, size: 8},
	},
	{
		"v4 esp",
		raw(
			"4500001c 12344000 403213e0 0a4d0002 0a4d0001", // IPv4, 28 bytes, ESP
			"00000100 00000001",                            // ESP, spi 256, sequence 1
		),
		Info{Kind: Other, Version: 4, Proto: 50, L4: 20, Payload: 20, Length: 28, size: 8},
	},
	{
		"v4 protocol 58",
		raw(
			"4500001c 12344000 403a13d8 0a4d0002 0a4d0001", // IPv4, 28 bytes, protocol 58, which is ICMP in IPv6 only
			"80000000 00070001",                            // ICMPv6 echo
		),
		Info{Kind: Other, Version: 4, Proto: 58, L4: 20, Payload: 20, Length: 28, size: 8},
	},
	{
		"v6 udp",
		raw(
			"60000000 000c1140 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 12 bytes, UDP
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 6, Proto: 17, L4: 40, Payload: 48, Length: 52, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v6 udp without checksum",
		raw(
			"60000000 000c1140 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 12 bytes, UDP
			"9c410035 000c0000", // UDP 40001 > 53, checksum 0
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 6, Proto: 17, L4: 40, Payload: 48, Length: 52, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v6 tcp syn",
		raw(
			"60000000 00280640 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 40 bytes, TCP
			"9c410050 01020304 00000000 a0c2faf0 b0c40000 020405b4 0402080a 00000001 00000000 01030307", // TCP 40001 > 80, SYN ECE CWR
		),
		Info{Kind: TCP, Version: 6, Proto: 6, L4: 40, Payload: 80, Length: 80, size: 0, SrcPort: 40001, DstPort: 80, TCPFlags: SYN | ECE | CWR},
	},
	{
		"v6 echo",
		raw(
			"60000000 000c3a40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 12 bytes, ICMPv6
			"8000a5ed",          // ICMPv6 echo
			"00070001 70696e67", // id 7, sequence 1, data
		),
		Info{Kind: ICMP, Version: 6, Proto: 58, L4: 40, Payload: 44, Length: 52, size: 8, ICMPType: 128},
	},
	{
		"v6 neighbour solicitation",
		raw(
			"60000000 00203aff fd770000 00000000 00000000 00000002 ff020000 00000000 00000001 ff000001", // IPv6, 32 bytes, ICMPv6, hop limit 255, to the solicited-node group
			"87007ca9", // ICMPv6 neighbour solicitation
			"00000000 fd770000 00000000 00000000 00000001", // reserved, target
			"01010200 00000002",                            // source link-layer address
		),
		Info{Kind: Link, Version: 6, Proto: 58, L4: 40, Payload: 44, Length: 72, size: 28, ICMPType: 135},
	},
	{
		"v6 packet too big",
		raw(
			"60000000 00383a40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 56 bytes, ICMPv6
			"02006b3c", // ICMPv6 packet too big
			"00000500", // MTU 1280
			"60000000 000c1140 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // the IPv6 header it is about
			"9c410035 000c899c", // the UDP header it is about
		),
		Info{Kind: Link, Version: 6, Proto: 58, L4: 40, Payload: 44, Length: 96, size: 52, ICMPType: 2},
	},
	{
		"v6 two extensions",
		raw(
			"60000000 001c0040 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 28 bytes, hop-by-hop
			"3c000502 00000100", // hop-by-hop, router alert, PadN
			"11000104 00000000", // destination options, PadN
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 6, Proto: 17, L4: 56, Payload: 64, Length: 68, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v6 mld",
		raw(
			"60000000 00200001 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 32 bytes, hop-by-hop, hop limit 1
			"3a000502 00000100", // hop-by-hop, router alert, PadN
			"830083b4",          // MLD report
			"00000000 ff020000 00000000 00000001 ff000001", // delay, group
		),
		Info{Kind: ICMP, Version: 6, Proto: 58, L4: 48, Payload: 52, Length: 72, size: 20, ICMPType: 131},
	},
	{
		"v6 routing header, arrived",
		raw(
			"60000000 002c2b40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 44 bytes, routing
			"06020200 00000000 fd770000 00000000 00000000 00000001",                                     // routing, type 2, no segments left
			"9c410050 01020304 00000007 5010faf0 19530000",                                              // TCP 40001 > 80, ACK
		),
		Info{Kind: TCP, Version: 6, Proto: 6, L4: 64, Payload: 84, Length: 84, size: 0, SrcPort: 40001, DstPort: 80, TCPFlags: ACK},
	},
	{
		"v6 routing header, not arrived",
		raw(
			"60000000 002c2b40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 44 bytes, routing
			"06020201 00000000 fd770000 00000000 00000000 00000001",                                     // routing, type 2, 1 segment left
			"9c410050 01020304 00000007 5010faf0 19530000",                                              // TCP 40001 > 80, ACK
		),
		Info{Kind: Other, Version: 6, Proto: 43, L4: 40, Payload: 40, Length: 84, size: 44},
	},
	{
		"v6 option not to be skipped",
		raw(
			"60000000 00143c40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 20 bytes, destination options
			"1100c904 00000000", // destination options, type 0xc9 (home address) as unknown
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: Other, Version: 6, Proto: 60, L4: 40, Payload: 40, Length: 60, size: 20},
	},
	{
		"v6 unknown option to be skipped",
		raw(
			"60000000 00143c40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 20 bytes, destination options
			"11003e02 00000000", // destination options, type 0x3e, two Pad1
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 6, Proto: 17, L4: 48, Payload: 56, Length: 60, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v6 hop-by-hop in second place",
		raw(
			"60000000 001c3c40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 28 bytes, destination options
			"00000104 00000000", // destination options, PadN
			"11000502 00000100", // hop-by-hop, router alert, PadN
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: Other, Version: 6, Proto: 0, L4: 48, Payload: 48, Length: 68, size: 20},
	},
	{
		"v6 atomic fragment",
		raw(
			"60000000 00142c40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 20 bytes, fragment
			"11ff0006 00000001", // fragment, offset 0, last, reserved bits set, id 1
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 6, Proto: 17, L4: 48, Payload: 56, Length: 60, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v6 first fragment",
		raw(
			"60000000 00182c40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 24 bytes, fragment
			"11000001 00000001", // fragment, offset 0, more, id 1
			"9c410035 00641234", // UDP 40001 > 53, 100 bytes
			"70696e67 70696e67", // data
		),
		Info{Kind: Fragment, Version: 6, Proto: 17, L4: 48, Payload: 48, Length: 64, size: 16},
	},
	{
		"v6 last fragment behind options",
		raw(
			"60000000 00133c40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 19 bytes, destination options
			"2c000104 00000000", // destination options, PadN
			"11000010 00000001", // fragment, offset 16, last, id 1
			"616263",            // data
		),
		Info{Kind: Fragment, Version: 6, Proto: 17, L4: 56, Payload: 56, Length: 59, size: 3},
	},
	{
		"v6 no next header",
		raw(
			"60000000 00043b40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 4 bytes, no next header
			"70696e67", // bytes to be ignored
		),
		Info{Kind: Other, Version: 6, Proto: 59, L4: 40, Payload: 40, Length: 44, size: 4},
	},
	{
		"v6 nothing at all",
		raw(
			"60000000 00003b40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 0 bytes, no next header
		),
		Info{Kind: Other, Version: 6, Proto: 59, L4: 40, Payload: 40, Length: 40, size: 0},
	},
	{
		"v6 authentication header",
		raw(
			"60000000 00243340 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 36 bytes, AH
			"11040000 00000100 00000001 00000000 00000000 00000000",                                     // AH, spi 256, sequence 1, 4 bytes of check value, padded
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: Other, Version: 6, Proto: 51, L4: 40, Payload: 40, Length: 76, size: 36},
	},
	{
		"v6 experimental header",
		raw(
			"60000000 0014fd40 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 20 bytes, next header 253
			"11ff0000 00000000", // 8 bytes, whatever the length says
			"9c410035 000c899c", // UDP 40001 > 53
			"70696e67",          // data
		),
		Info{Kind: UDP, Version: 6, Proto: 17, L4: 48, Payload: 56, Length: 60, size: 4, SrcPort: 40001, DstPort: 53},
	},
	{
		"v6 protocol 1",
		raw(
			"60000000 00080140 fd770000 00000000 00000000 00000002 fd770000 00000000 00000000 00000001", // IPv6, 8 bytes, protocol 1, which is ICMP in IPv4 only
			"08000000 00070001", // ICMPv4 echo
		),
		Info{Kind: Other, Version: 6, Proto: 1, L4: 40, Payload: 40, Length: 48, size: 8},
	},
}
