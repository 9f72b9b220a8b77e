package flow

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScripts(t *testing.T) {
	for _, s := range []struct {
		name   string
		o      Options
		script string
		want   string
	}{
		{"refused, tried again, admitted, accepted late", Options{}, `
			> 40318 SYN 0 mss ws sack ts accept-queue-full 1/1
			+1.006s > 40318 SYN 0 mss ws sack ts
			< 40318 SYN+ACK 0 1 mss ws sack ts
			+1.0063s > 40318 ACK 1 1
			established 40318 1/1
			+2.9063s accepted 40318 1.9s
			flows
			ladder f1`, `
			f1 open 12:00:21.840 80/tcp 10.77.0.2:40318 SYN refused accept-queue-full 1/1; SYN +1.006s admitted; established 0.3 ms; accepted after 1.9 s
			f1 12:00:21.840 80/tcp 10.77.0.2:40318 SYN refused accept-queue-full 1/1; SYN +1.006s admitted; established 0.3 ms; accepted after 1.9 s
			client offers MSS 1460, window scale 7, SACK, timestamps
			host offers MSS 1460, window scale 7, SACK, timestamps
			   +0.000000  >  SYN seq 0 win 65535 [MSS WS SACK TS] accept-queue-full 1/1
			   +1.006000  >  SYN seq 0 win 65535 [MSS WS SACK TS]
			   +1.006000  <  SYN+ACK seq 0 ack 1 win 65535 [MSS WS SACK TS]
			   +1.006300  >  ACK seq 1 ack 1 win 65535
			   +1.006300  *  in accept queue 1/1
			   +2.906300  *  accepted after 1.9 s`},
		{"a queue of none lets one wait", Options{}, `
			> 40318 SYN 0 accept-queue-full 1/0
			flows
			why f1`, `
			f1 refused 12:00:21.840 80/tcp 10.77.0.2:40318 SYN refused accept-queue-full 1/0
			accept-queue-full: not connected: SYN 1 refused, accept queue 1/0 full. Played again, the recorded arrivals fit accept-queue=0, which is no more than it was: the limit or the service had changed meanwhile, so no size can be given.`},
		{"a queue that was full by its bytes", Options{}, `
			> 40318 SYN 0 queue-full 2/64
			flows
			why f1`, `
			f1 refused 12:00:21.840 80/tcp 10.77.0.2:40318 SYN refused queue-full by its bytes
			queue-full: not connected: SYN 1 refused, the port's queue full by its bytes.`},
		{"a whole exchange, data in one rung", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			> 5000 ACK 1 1
			established 5000 1/5
			+1ms accepted 5000 1ms
			+2ms > 5000 PSH+ACK 1 1 len=100
			read 5000
			+3ms < 5000 ACK 1 101 len=1000
			+4ms < 5000 ACK 1001 101 len=1000
			> 5000 ACK 101 2001
			< 5000 ACK 2001 101 len=1000
			+5ms < 5000 FIN+ACK 3001 101 len=100
			> 5000 ACK 101 3102
			> 5000 FIN+ACK 101 3102
			< 5000 ACK 3102 102
			flows
			ladder f1
			why f1`, `
			f1 closed 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; accepted after 1.0 ms; in 100 B, out 3.0 KiB; closed after 5.0 ms
			f1 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; accepted after 1.0 ms; in 100 B, out 3.0 KiB; closed after 5.0 ms
			client offers no options
			host offers no options
			   +0.000000  >  SYN seq 0 win 65535
			   +0.000000  <  SYN+ACK seq 0 ack 1 win 65535
			   +0.000000  >  ACK seq 1 ack 1 win 65535
			   +0.000000  *  in accept queue 1/5
			   +0.001000  *  accepted after 1.0 ms
			   +0.002000  >  PSH+ACK seq 1 ack 1 len 100 win 65535
			   +0.002000  *  first byte read
			   +0.003000  <  ACK seq 1 ack 101 len 1000 win 65535
			   +0.005000  <  2.0 KiB of data
			   +0.005000  <  FIN+ACK seq 3001 ack 101 len 100 win 65535
			   +0.005000  >  FIN+ACK seq 101 ack 3102 win 65535
			nothing: nothing held it up: connected in 0.0 ms, accepted after 1.0 ms, no segment dropped or sent again.`},
		{"a refused final ACK, data that comes too early, SYN+ACK again", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			+1ms > 5000 ACK 1 1 accept-queue-full 2/2
			+2ms > 5000 PSH+ACK 1 1 len=5 accept-queue-full 2/2
			+1s < 5000 SYN+ACK 0 1
			+1.001s > 5000 ACK 6 1
			+1.2s > 5000 PSH+ACK 1 1 len=5
			flows
			ladder f1`, `
			f1 open 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; ACK refused accept-queue-full 2/2 (twice); SYN+ACK sent twice; established 1.0 s; in 5 B, out 0 B; client resent 1
			f1 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; ACK refused accept-queue-full 2/2 (twice); SYN+ACK sent twice; established 1.0 s; in 5 B, out 0 B; client resent 1
			client offers no options
			host offers no options
			+0.000000  >  SYN seq 0 win 65535
			+0.000000  <  SYN+ACK seq 0 ack 1 win 65535
			+0.001000  >  ACK seq 1 ack 1 win 65535 accept-queue-full 2/2
			+0.002000  >  PSH+ACK seq 1 ack 1 len 5 win 65535 accept-queue-full 2/2
			+1.000000  <  SYN+ACK seq 0 ack 1 win 65535
			+1.001000  >  ACK seq 6 ack 1 win 65535
			+1.200000  >  PSH+ACK seq 1 ack 1 len 5 win 65535 resent`},
		{"a closed UDP port, after other trouble", Options{}, `
			udp > 5000 len=9 queue-full 1/1
			udp > 5001 len=9 closed
			udp > 5002 len=9
			why last`, `
			closed: nobody listens on 53/udp; the host owes an ICMP port unreachable, of which it sends a limited number a second.`},
		{"a closed port", Options{}, `
			> 5000 SYN 0 closed
			< 5000 RST+ACK 0 1
			flows
			why last`, `
			f1 reset 12:00:21.840 80/tcp 10.77.0.2:5000 SYN refused closed; reset by host after 0.0 ms
			closed: connection refused: nobody listens on 80/tcp, so the host answered with RST.`},
		{"loss in both directions, a gap filled", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			> 5000 ACK 1 1
			> 5000 ACK 1 1 len=10
			> 5000 ACK 21 1 len=10
			> 5000 ACK 11 1 len=10
			> 5000 ACK 31 1 len=10
			> 5000 ACK 31 1 len=10
			< 5000 ACK 1 41 len=10
			+300ms < 5000 ACK 1 41 len=10
			flows
			ladder f1
			why last`, `
			f1 open 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; in 40 B, out 10 B; client resent 1; host resent 1
			f1 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; in 40 B, out 10 B; client resent 1; host resent 1
			client offers no options
			host offers no options
			+0.000000  >  SYN seq 0 win 65535
			+0.000000  <  SYN+ACK seq 0 ack 1 win 65535
			+0.000000  >  ACK seq 1 ack 1 win 65535
			+0.000000  >  ACK seq 1 ack 1 len 10 win 65535
			+0.000000  >  ACK seq 21 ack 1 len 10 win 65535 after a gap
			+0.000000  >  ACK seq 11 ack 1 len 10 win 65535 fills the gap
			+0.000000  >  10 B of data
			+0.000000  >  ACK seq 31 ack 1 len 10 win 65535 resent
			+0.000000  <  ACK seq 1 ack 41 len 10 win 65535
			+0.300000  <  ACK seq 1 ack 41 len 10 win 65535 resent
			loss: the client sent 1 segment again that had arrived: an acknowledgment was lost on the way, or late. 1 segment arrived without what came before: lost on the way, or out of order. The host sent 1 segment again, as no acknowledgment had come in time: lost on the way, or late.`},
		{"windows that close", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			> 5000 ACK 1 1
			> 5000 ACK 1 1 len=1000
			+1s < 5000 ACK 1 1001 win=0
			+1.5s > 5000 ACK 1000 1
			+1.6s < 5000 ACK 1 1001 win=0
			+2.2s < 5000 ACK 1 1001 win=1000
			+3s < 5000 ACK 1 1001 win=0
			+3.5s flows
			ladder f1
			why last`, `
			f1 open 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; in 1000 B, out 0 B; host's window closed twice for 1.7 s
			f1 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; in 1000 B, out 0 B; host's window closed twice for 1.7 s
			client offers no options
			host offers no options
			+0.000000  >  SYN seq 0 win 65535
			+0.000000  <  SYN+ACK seq 0 ack 1 win 65535
			+0.000000  >  ACK seq 1 ack 1 win 65535
			+0.000000  >  ACK seq 1 ack 1 len 1000 win 65535
			+1.000000  <  ACK seq 1 ack 1001 win 0 window closed
			+2.200000  <  ACK seq 1 ack 1001 win 1000 window open again
			+3.000000  <  ACK seq 1 ack 1001 win 0 window closed
			zero-window: the host's window was closed twice for 1.7 s: the service read slower than the client sent, and its receive buffer was full.`},
		{"a reset, and the same addresses again", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			> 5000 ACK 1 1
			+1s > 5000 RST 1
			+2s > 5000 SYN 77
			since 0
			flows
			why f1
			why last`, `
			next 5 missed 0: f1 f2
			f1 reset 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; reset by client after 1.0 s
			f2 opening 12:00:23.840 80/tcp 10.77.0.2:5000 SYN admitted
			reset-by-client: the client reset the connection after 1 s, with 0 B in and 0 B out.
			reset-by-client: the client reset the connection after 1 s, with 0 B in and 0 B out.`},
		{"a reset that its client would not send, and one that it would", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			+1s > 5000 RST 9
			< 5000 ACK 1 1
			flows
			+2s > 5000 RST 1
			flows`, `
			f1 opening 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted
			f1 reset 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; reset by client after 2.0 s`},
		{"a SYN+ACK that nobody answers", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			+1s < 5000 SYN+ACK 0 1
			+3s < 5000 SYN+ACK 0 1
			+4s why f1`, `
			handshake-timeout: not connected: the host sent SYN+ACK 3 times in 3 s and no final ACK came; the client did not get it, gave up, or its address is forged.`},
		{"a connection that the host began", Options{}, `
			< 5000 SYN 0 mss tfo
			> 5000 SYN+ACK 0 1 mss cookie ECE
			+1ms < 5000 ACK 1 1
			< 5000 ACK 1 1 len=5
			flows`, `
			f1 open 12:00:21.840 80/tcp to 10.77.0.2:5000 SYN; established 1.0 ms; in 0 B, out 5 B`},
		{"the middle of a connection, IPv6", Options{}, `
			6> 5000 ACK 50000 1 len=10
			+1s 6> 5000 ACK 50010 1 len=10
			6< 5000 ACK 1 50020 len=1
			flows
			why last`, `
			f1 open 12:00:21.840 80/tcp [fd77::2]:5000 beginning not seen; in 20 B, out 1 B
			unknown: the beginning of this flow was not seen, and nothing since explains a delay.`},
		{"what is of no conversation", Options{}, `
			> 5000 SYN 0 martian
			> 5000 SYN 0 not-for-us
			> 5000 SYN 0 bad-checksum
			> 5000 RST 0
			udp > 5000 bad-checksum
			flows`, ``},
		{"a drop after the handshake", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			> 5000 ACK 1 1
			> 5000 ACK 1 1 len=10 queue-full 64/64
			+200ms > 5000 ACK 1 1 len=10
			flows
			why last`, `
			f1 open 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; in 10 B, out 0 B; 1 dropped queue-full; client resent 1
			queue-full: 1 segment arrived and did not get on, queue-full. The client sent 1 segment again.`},
		{"slow service", Options{}, `
			> 5000 SYN 0
			< 5000 SYN+ACK 0 1
			> 5000 ACK 1 1
			established 5000 1/5
			+100ms flows
			+500ms why last
			+2s accepted 5000 2s
			> 5000 ACK 1 1 len=10
			+4.5s why last
			< 5000 ACK 1 11 len=10
			why last`, `
			f1 waiting 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; established 0.0 ms; not accepted
			not-accepted: it stands in the accept queue since 500 ms and the service has not accepted it.
			slow-accept: it waited 2 s in the accept queue for the service, which accepted 0.5/s. The service has not answered in 2.5 s since the client's first data.
			slow-accept: it waited 2 s in the accept queue for the service, which accepted 0.5/s. The service took 2.5 s for its first answer.`},
		{"an event whose packet said nothing", Options{}, `
			> 5000 SYN 0
			admitted 5000 1/8
			refused 5000 syn-queue-full 9/8
			flows
			ladder f1`, `
			f1 refused 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; refused syn-queue-full 9/8
			f1 12:00:21.840 80/tcp 10.77.0.2:5000 SYN admitted; refused syn-queue-full 9/8
			client offers no options
			+0.000000  >  SYN seq 0 win 65535
			+0.000000  *  admitted 1/8
			+0.000000  *  refused syn-queue-full 9/8`},
		{"datagrams", Options{}, `
			udp > 5000 none 0/2
			+3ms udp read 5000 3ms
			udp < 5000
			+1s udp > 5000 none 0/2
			udp > 5000 none 1/2
			udp > 5000 queue-full 2/2 1172/9999B
			+1.2s udp read 5000 200ms
			udp read 5000 200ms
			flows
			ladder f1
			why last
			why 53/udp`, `
			f1 open 12:00:21.840 53/udp 10.77.0.2:5000 in 4, out 1 datagrams; 1 dropped queue-full 2/2; first read after 3.0 ms; first answer 3.0 ms
			f1 12:00:21.840 53/udp 10.77.0.2:5000 in 4, out 1 datagrams; 1 dropped queue-full 2/2; first read after 3.0 ms; first answer 3.0 ms
			+0.000000  >  10 bytes
			+0.003000  *  read after 3.0 ms
			+0.003000  <  10 bytes
			+1.000000  >  10 bytes queue-full 2/2
			queue-full: 1 of 4 datagrams refused, the queue of 53/udp 2/2 full. queue=3 would have been enough.
			queue-full: 53/udp: 1 of 4 datagrams refused, queue 2/2 full, the last 200 ms ago. queue=3 would have been enough.`},
		{"a closed UDP port", Options{}, `
			udp > 5000 closed
			flows
			why last`, `
			f1 open 12:00:21.840 53/udp 10.77.0.2:5000 in 1, out 0 datagrams; refused closed
			closed: nobody listens on 53/udp; the host owes an ICMP port unreachable, of which it sends a limited number a second.`},
		{"the oldest goes", Options{Flows: 2}, `
			> 1 SYN 0
			+10ms > 2 SYN 0
			+20ms > 1 SYN 0 syn-repeated
			+30ms > 3 SYN 0
			flows
			since 1`, `
			f1 opening 12:00:21.840 80/tcp 10.77.0.2:1 SYN admitted; SYN +0.020s repeated
			f3 opening 12:00:21.870 80/tcp 10.77.0.2:3 SYN admitted
			next 4 missed 0: f1 f3`},
		{"changes that were overwritten", Options{Changes: 2}, `
			> 1 SYN 0
			> 2 SYN 0
			> 3 SYN 0
			since 0
			since 3
			since 9`, `
			next 3 missed 1: f2 f3
			next 3 missed 0:
			next 3 missed 0:`},
	} {
		t.Run(s.name, func(t *testing.T) {
			got := strings.Join(play(t, s.o, s.script), "\n")
			require.Equal(t, trim(s.want), trim(got))
		})
	}
}

func trim(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
