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
