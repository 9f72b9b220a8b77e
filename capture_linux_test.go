package porthole_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/tun"
)

// tshark reads a file, with every checksum verified and every record dissected alone
// (a retransmission that is cut elsewhere counts as malformed in a stream put together),
// what goes to discard as bytes and not as what the client's port may stand for, and gives the fields of the frames that a filter leaves, by name.
func tshark(t *testing.T, file, filter string, fields ...string) (frames []map[string]string) {
	t.Helper()
	args := []string{"-n", "-r", file, "-Y", filter, "-T", "fields", "-o", "tcp.desegment_tcp_streams:FALSE",
		"-d", "tcp.port==9,data", "-d", "udp.port==9,data",
		"-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("tshark %v: %s", args, exit.Stderr)
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		frame := map[string]string{}
		for i, value := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			frame[fields[i]] = value
		}
		frames = append(frames, frame)
	}
	return frames
}

// sums are the fields that say whether a checksum is good (1), bad (0), or could not
// be verified.
var sums = []string{"ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status"}

// TestKernelCapture: stock clients on every device, bulk both ways, fragments, closed
// ports, an accept queue that overflows. tshark finds no checksum error and nothing
// malformed, no record longer than the MTU, and by the comments exactly the packets
// that the ledger counts.
func TestKernelCapture(t *testing.T) {
	t.Parallel()
	need(t, "curl", "dig", "ping", "tshark")
	for _, kind := range devices {
		t.Run(kind, func(t *testing.T) {
			var all, places *capturing
			r := newKernelRig(t, kernelOptions{kind: kind, before: func(h *porthole.Host) {
				all = capture(t, h, porthole.CaptureOptions{BufferBytes: 64 << 20})
				places = capture(t, h, porthole.CaptureOptions{Places: true, Ports: []string{"9/tcp", "53/udp"}, Snaplen: 100})
			}})
			set(t, r.host, "9/tcp", "accept=never accept-queue=1")
			for i, host := range hosts {
				r.sh(fmt.Sprintf(`
					curl -gsS --fail -o blob %[1]s/blob/500000
					curl -gsS --fail -T blob %[1]s/sink -o /dev/null
					curl -gsS %[1]s:81/ 2>/dev/null && exit 1
					ping -c 2 -i 0.05 -W 60 -s 4000 %[2]s
					dig +time=60 +tries=1 @%[2]s porthole.test >/dev/null`, urls[i], host))
			}
			inNamespace(t, r.ns, func() error { // from a port that is EtherNet/IP's
				c, err := net.DialUDP("udp", &net.UDPAddr{Port: 44818}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.77.0.1:9")))
				if err == nil {
					_, err = c.Write([]byte("to nobody in particular"))
					c.Close()
				}
				return err
			})
			// Two connections wait, the others are refused, twice.
			r.sh(`for i in 1 2 3 4 5 6; do curl -s -m 2 http://10.77.0.1:9/ & done; wait || true`)
			until(t, "rest", func() bool { return r.host.Ledger().Queued == 0 })
			r.law() // the link is down: nothing more comes
			file, records := r.captured(all)
			placesFile, stations := r.captured(places)

			// What tshark says of each record.
			frames := tshark(t, file, "frame", append([]string{"eth.type", "_ws.malformed", "_ws.expert.message", "frame.comment", "ip.flags.mf", "ip.frag_offset", "tcp.checksum"}, sums...)...)
			require.Len(t, frames, len(records))
			good := map[string]int{}
			for n, f := range frames {
				require.Empty(t, f["_ws.malformed"], "frame %d", n+1)
				if kind == tun.KindTAP {
					require.Contains(t, []string{"0x0800", "0x86dd", "0x0806"}, f["eth.type"], "frame %d: %s", n+1, f["frame.comment"])
				}
				require.Equal(t, records[n].comment, f["frame.comment"])
				for _, s := range sums {
					for _, status := range strings.Split(f[s], ",") { // an ICMP error quotes another header
						switch {
						case status == "1":
							good[s]++
						case status == "" || status == "3": // a quoted packet is not whole
						case s == "tcp.checksum.status" && f["tcp.checksum"] == "0xffff" && !records[n].outbound:
							// The kernel writes 0xffff for 0 (CSUM_MANGLED_0), which tshark minds.
						default:
							t.Fatalf("frame %d, %s: %s is %s", n+1, f["frame.comment"], s, status)
						}
					}
				}
			}
			for _, s := range sums {
				require.NotZero(t, good[s], s)
			}

			mtu := 1500
			if kind == tun.KindTAP {
				mtu += 14
			}
			got, cut := map[string]uint64{}, map[bool]int{}
			for _, e := range records {
				require.LessOrEqual(t, e.Length, mtu, e.comment)
				part := e.word["segment"]
				if part != "" {
					cut[e.outbound]++
				}
				if f := e.word["fate"]; f != "" && (part == "" || strings.HasPrefix(part, "1/")) {
					got[f]++ // a super-packet once
				}
			}
			require.Equal(t, kind == tun.KindOffload, cut[false] > 0, "super-packets from the kernel")
			require.Equal(t, kind == tun.KindOffload, cut[true] > 0, "super-packets from the host")
			require.Equal(t, r.host.Ledger().Fates, got)

			l, _ := r.host.PortLedger("9/tcp")
			refused := l.Fates["accept-queue-full"]
			require.GreaterOrEqual(t, refused, uint64(3))
			found := tshark(t, file, `frame.comment contains "accept-queue-full"`, "tcp.dstport", "tcp.flags")
			require.Len(t, found, int(refused))
			for _, f := range found {
				// SYN, or the final ACK of a handshake that was under way when it filled, which
				// may carry data or FIN.
				require.Regexp(t, "^9 0x00(02|1[0189])$", f["tcp.dstport"]+" "+f["tcp.flags"])
			}

			// The stations: the refused end at the door, a question comes to the service.
			at := map[string]int{}
			for n, f := range tshark(t, placesFile, "frame", "frame.interface_name", "frame.packet_id", "frame.cap_len") {
				require.LessOrEqual(t, stations[n].CaptureLength, 100)
				require.Equal(t, stations[n].iface, f["frame.interface_name"])
				at[stations[n].iface+" "+stations[n].word["fate"]]++
			}
			require.EqualValues(t, refused, at["door accept-queue-full"])
			require.Zero(t, at["stack accept-queue-full"])
			require.GreaterOrEqual(t, at["service to-service"], 2)
			require.Equal(t, at["device to-service"], at["service to-service"])
			require.Equal(t, at["queue to-service"], at["service to-service"])
		})
	}
}

// captured ends a capture and gives its file, on disk and read by gopacket.
func (r *kernelRig) captured(c *capturing) (file string, records []captured) {
	r.t.Helper()
	s, err := r.host.StopCapture(c.id)
	require.NoError(r.t, err)
	require.Zero(r.t, s.Missed)
	records = c.file(r.t)
	file = filepath.Join(r.t.TempDir(), "x.pcapng")
	require.NoError(r.t, os.WriteFile(file, c.buf.Bytes(), 0o600))
	return file, records
}
