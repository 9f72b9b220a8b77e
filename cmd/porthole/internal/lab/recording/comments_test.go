package recording

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// commented writes packets with comments, each in an enhanced packet block.
func commented(t testing.TB, all []sent, comments []string) []byte {
	b := pcap(t, true, false, []string{"ph0"})
	le := binary.LittleEndian
	for i, s := range all {
		data := frame(t, s, false)
		at := uint64(epoch.Add(s.at).UnixNano())
		body := le.AppendUint32(nil, 0) // interface
		body = le.AppendUint32(body, uint32(at>>32))
		body = le.AppendUint32(body, uint32(at))
		body = le.AppendUint32(body, uint32(len(data)))
		body = le.AppendUint32(body, uint32(len(data)))
		body = append(body, data...)
		pad := func() { body = append(body, make([]byte, -len(body)&3)...) }
		pad()
		if c := comments[i]; c != "" {
			body = le.AppendUint16(body, 2) // epb_flags, before the comment
			body = le.AppendUint16(body, 4)
			body = le.AppendUint32(body, 1)
			body = le.AppendUint16(body, 1) // opt_comment
			body = le.AppendUint16(body, uint16(len(c)))
			body = append(body, c...)
			pad()
			body = le.AppendUint32(body, 0) // end of options
		}
		n := uint32(12 + len(body))
		b = le.AppendUint32(b, 6)
		b = le.AppendUint32(b, n)
		b = append(b, body...)
		b = le.AppendUint32(b, n)
	}
	return b
}

// TestServiceDelay: a service that answers at once and then works is busy until it takes
// the next one, if that waited. Answers alone would say that it takes no time; a
// capture of porthole's says when each was read, and which was never answered.
func TestServiceDelay(t *testing.T) {
	third := "10.0.0.9:5003"
	packets := []sent{
		udp(0, client, dns),
		udp(0, dns, client),
		udp(5*ms, other, dns),
		udp(8*ms, third, dns),
		udp(9*ms, client, dns), // dropped: the answer after it is not its own
		udp(10*ms, client, dns),
		udp(20*ms, dns, other),
		udp(40*ms, dns, third),
		udp(60*ms, dns, client),
		udp(65*ms, client, dns), // within the service's work, which ends unseen
		udp(80*ms, dns, client),
		udp(200*ms, client, dns), // to an idle service
		udp(200*ms, dns, client),
	}
	comments := []string{
		"fate=to-service port=53/udp depth=0 waited=0us flow=f1", "out port=53/udp flow=f1 from=service",
		"fate=to-service port=53/udp depth=0 waited=15000us flow=f2",
		"fate=to-service port=53/udp depth=1 waited=32000us flow=f3",
		"fate=queue-full port=53/udp depth=2 waited=0us flow=f1",
		"fate=to-service port=53/udp depth=2 waited=50000us flow=f1",
		"out", "out", "out",
		"fate=to-service port=53/udp depth=0 waited=15000us flow=f1", "out",
		"fate=to-service port=53/udp depth=0 waited=0us flow=f1", "out",
	}
	b := commented(t, packets, comments)
	rec, err := read(bytes.NewReader(b), "")
	require.NoError(t, err)
	var serve []time.Duration
	for _, r := range rec.Requests {
		serve = append(serve, r.Serve)
	}
	require.Equal(t, []time.Duration{20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms}, serve)
	require.Equal(t, []string{"1 of 7 requests have no answer in the recording; they take the median of the others, 20ms"}, rec.Notes)

	// Without comments it is as with any other capture; cut off, as far as it goes.
	plain, err := read(bytes.NewReader(commented(t, packets, make([]string, len(packets)))), "")
	require.NoError(t, err)
	require.Len(t, plain.Requests, 7)
	require.Zero(t, plain.Requests[0].Serve)
	cut, err := read(bytes.NewReader(b[:len(b)-9]), "")
	require.NoError(t, err)
	require.Equal(t, rec.Requests, cut.Requests)
}

// TestFlowsTaken: the same of what porthole flows --json printed.
func TestFlowsTaken(t *testing.T) {
	const flows = `{"id":"f1","proto":"udp","local":"10.77.0.1:53","remote":"10.77.0.2:4001","began":"2026-11-25T18:00:00Z","in":{"datagrams":1},"out":{"datagrams":1},"waited_ns":1000,"read_ns":1000,"ladder":[{"at_ns":0,"dir":"in","what":"segment","len":54},{"at_ns":1000,"what":"first-read","waited_ns":1000},{"at_ns":9000,"dir":"out","what":"segment","len":58}],"handshake_rung":-1}
{"id":"f2","proto":"udp","local":"10.77.0.1:53","remote":"10.77.0.2:4002","began":"2026-11-25T18:00:00.005Z","in":{"datagrams":1},"out":{"datagrams":1},"waited_ns":15001000,"read_ns":15001000,"ladder":[{"at_ns":0,"dir":"in","what":"segment","len":54},{"at_ns":15001000,"what":"first-read","waited_ns":15001000},{"at_ns":15009000,"dir":"out","what":"segment","len":58}],"handshake_rung":-1}
`
	rec, err := read(bytes.NewReader([]byte(flows)), "")
	require.NoError(t, err)
	require.Equal(t, []Request{{0, 20 * ms}, {5 * ms, 20 * ms}}, rec.Requests)

	// Of a later datagram of the same flow nobody knows when it was taken, but it has its answer.
	const later = `,{"at_ns":95000000,"dir":"in","what":"segment","len":54},{"at_ns":95001000,"dir":"out","what":"segment","len":58}]`
	rec, err = read(strings.NewReader(strings.TrimSuffix(flows, `],"handshake_rung":-1}`+"\n")+later+`,"handshake_rung":-1}`), "")
	require.NoError(t, err)
	require.Equal(t, []Request{{0, 20 * ms}, {5 * ms, 20 * ms}, {100 * ms, 20 * ms}}, rec.Requests)
	require.Empty(t, rec.Notes)
}

// FuzzComments: whatever a file holds passes unchanged.
func FuzzComments(f *testing.F) {
	f.Add(commented(f, datagrams, make([]string, len(datagrams))))
	f.Add(commented(f, datagrams[:1], []string{"fate=to-service waited=3us"}))
	f.Add([]byte{0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 12, 0x1a, 0x2b, 0x3c, 0x4d})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &comments{r: bufio.NewReader(bytes.NewReader(b))}
		var out bytes.Buffer
		_, err := out.ReadFrom(c)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, out.Bytes()))
	})
}
