package dns

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// TestDig: the stock client, as a process, against loopback. UDP and TCP have
// ports of their own here, so queries that dig would ask again over TCP say so.
func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed")
	}
	rig := servicestest.Start(t, Service, func(e *services.Env) { e.Config.(*Config).Transfer = true })
	for _, tt := range []struct {
		args string
		want []string // patterns, each found in the output
	}{
		{"+short www.porthole.test A", []string{`^127\.0\.0\.1\n$`}},
		{"+tcp +short www.porthole.test AAAA", []string{`^::1\n$`}},
		{"+short porthole.test SOA", []string{`^ns\.porthole\.test\. hostmaster\.porthole\.test\. \d+ 3600 600 86400 60\n$`}},
		{"+short porthole.test MX", []string{`^10 mail\.porthole\.test\.\n$`}},
		{"+short _dns._udp.porthole.test SRV", []string{`^0 0 53 dns\.porthole\.test\.\n$`}},
		{"+short -x 127.0.0.1", []string{`^porthole\.porthole\.test\.\n$`}},
		{"+short -x ::1", []string{`^porthole\.porthole\.test\.\n$`}},
		{"+short x.wild.porthole.test TXT", []string{`^"made from a wildcard"\n$`}},
		{"+norec www.porthole.test", []string{`flags: qr aa; QUERY: 1, ANSWER: 1`}},
		{"www.porthole.test", []string{`flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1`, `recursion requested but not available`, `EDNS: version: 0, flags:; udp: 1232`}},
		{"+notcp porthole.test ANY", []string{`IN\s+HINFO\s+"RFC8482" ""`}},
		{"+tcp porthole.test ANY", []string{`ANSWER: 6`}},
		{"+ignore +bufsize=512 medium.porthole.test TXT", []string{`flags: qr aa tc rd`, `ANSWER: 0`}},
		{"+ignore +bufsize=1232 medium.porthole.test TXT", []string{`flags: qr aa rd`, `ANSWER: 1`}},
		{"+ignore +bufsize=4096 big.porthole.test TXT", []string{`flags: qr aa tc rd`}},
		{"+tcp many.porthole.test A", []string{`ANSWER: 100`}},
		{"+tcp huge.porthole.test TXT", []string{`ANSWER: 16`}},
		{"+ednsopt=100:0102 porthole.test SOA", []string{`NOERROR`, `ANSWER: 1`}},
		{"+edns=1 +noednsneg porthole.test SOA", []string{`BADVERS`, `ANSWER: 0`, `EDNS: version: 0`}},
		{"+edns=1 +ednsneg porthole.test SOA", []string{`NOERROR`, `ANSWER: 1`}},
		{"+ednsflags=0x40 porthole.test SOA", []string{`EDNS: version: 0, flags:; udp`, `ANSWER: 1`}},
		{"+dnssec +nsid +cookie +expire +subnet=0.0.0.0/0 porthole.test SOA", []string{`flags: do;`, `NSID: 70 6f 72`, `ANSWER: 1`}},
		{"+zflag +adflag +cdflag porthole.test SOA", []string{`flags: qr aa rd cd;`}},
		{"+opcode=15 +header-only +norec", []string{`opcode: RESERVED15, status: NOTIMP`, `flags: qr; QUERY: 0`}},
		{"+opcode=notify porthole.test SOA", []string{`opcode: NOTIFY, status: NOTIMP`}},
		{"+header-only", []string{`status: FORMERR`}},
		{"nxdomain.porthole.test", []string{`status: NXDOMAIN`, `AUTHORITY: 1`, `IN\s+SOA`}},
		{"nodata.porthole.test", []string{`status: NOERROR`, `ANSWER: 0, AUTHORITY: 1`}},
		{"+norec x.sub.porthole.test", []string{`flags: qr; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 3`, `ns\.sub\.porthole\.test\.\s+60\s+IN\s+A\s+192\.0\.2\.53`}},
		{"example.com", []string{`status: REFUSED`}},
		{"CH TXT version.bind", []string{`"porthole test"`}},
		{"types.porthole.test TYPE65280", []string{`\\# 4 0A000001`}},
		{"porthole.test TYPE1000", []string{`NOERROR`, `AUTHORITY: 1`}},
		{"porthole.test AXFR", []string{`XFR size: \d+ records`, `huge\.porthole\.test\.`}},
		{"+tcp +keepalive porthole.test SOA", []string{`TCP[- ]KEEPALIVE: 10\.0 secs`}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			port := services.UDP(53)
			if strings.Contains(tt.args, "+tcp") || strings.HasSuffix(tt.args, "AXFR") {
				port = services.TCP(53)
			}
			args := append([]string{"-r", "@127.0.0.1", "-p", itoa(int(rig.Addr[port].Port())), "+tries=1", "+time=30"}, strings.Fields(tt.args)...)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := exec.CommandContext(ctx, dig, args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			for _, w := range tt.want {
				assert.Regexp(t, regexp.MustCompile(w), string(out))
			}
			assert.NotContains(t, string(out), "Warning: Message parser")
			assert.NotContains(t, string(out), "malformed")
		})
	}
}
