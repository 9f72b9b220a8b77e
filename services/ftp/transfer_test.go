package ftp

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRestBothWays(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	want := pattern(1 << 20)
	c.do("REST 1000", "350")
	require.Equal(t, want[1000:], c.get("RETR pub/1MiB.bin"))
	require.Equal(t, want, c.get("RETR pub/1MiB.bin"), "REST is good for one transfer")
	c.do(fmt.Sprintf("REST %d", len(want)), "350")
	require.Empty(t, c.get("RETR pub/1MiB.bin"))

	c.put("STOR f", "0123456789", "226")
	c.do("REST 4", "350")
	c.put("STOR f", "abc", "226")
	require.Equal(t, "0123abc", c.get("RETR f"), "what was behind the offset is gone")
	c.do("REST 7", "350")
	c.put("STOR f", "x", "226")
	require.Equal(t, "0123abcx", c.get("RETR f"))
	c.put("APPE f", "yz", "226")
	c.do("REST 2", "350")
	c.put("APPE f", "!", "226")
	require.Equal(t, "0123abcxyz!", c.get("RETR f"))
	c.put("APPE new", "1", "226")
	require.Equal(t, "1", c.get("RETR new"))
	c.put("STOR f", "", "226")
	require.Empty(t, c.get("RETR f"))

	c.put("APPE pub/1KiB.bin", "tail", "226") // a generated file becomes a real one
	require.Equal(t, want[:1024]+"tail", c.get("RETR pub/1KiB.bin"))
}

func TestStou(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	c.do("CWD incoming", "250")
	conn := c.passive()
	reply := c.do("STOU", "1")
	_, name, found := strings.Cut(reply, "FILE: ")
	require.True(t, found, reply)
	_, _ = io.WriteString(conn, "unique")
	conn.Close()
	c.want("226")
	require.Equal(t, "unique", c.get("RETR "+name))

	for _, want := range []string{"like", "like.1", "like.2"} { // what clients ask for
		conn := c.passive()
		require.Contains(t, c.do("STOU like", "150")+"\n", "FILE: "+want+"\n")
		_, _ = io.WriteString(conn, want)
		conn.Close()
		c.want("226")
	}
	require.Equal(t, "like", c.get("RETR like"))
	require.Equal(t, "like.2", c.get("RETR like.2"))
}

// Clients take the size of a download from 150, so that is what they get, whether
// the data connection is there already or not.
func TestMarkHasSize(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	c.do("TYPE I", "200")
	for range 5 {
		conn := c.passive()
		c.do("NOOP", "200")
		require.Contains(t, c.do("RETR pub/1KiB.bin", "150"), "(1024 bytes)")
		_, err := io.Copy(io.Discard, conn)
		require.NoError(t, err)
		c.want("226")
	}
}

func TestASCII(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	lines := c.get("RETR pub/text/lines.txt")
	c.do("TYPE A", "200")
	crlf := strings.ReplaceAll(lines, "\n", "\r\n")
	require.Equal(t, crlf, c.get("RETR pub/text/lines.txt"))
	c.do("SIZE pub/text/lines.txt", fmt.Sprintf("213 %d", len(crlf)))
	c.put("STOR t", crlf+"\r", "226")
	c.do("TYPE I", "200")
	require.Equal(t, lines+"\r", c.get("RETR t"))
	all := strings.Repeat("\n", bufferSize)
	c.put("STOR t", all, "226")
	c.do("TYPE A", "200")
	require.Equal(t, strings.Repeat("\r\n", bufferSize), c.get("RETR t"))
}

func TestActive(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	for i, form := range []string{"PORT", "EPRT"} {
		ln, port := c.listen()
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		if form == "PORT" {
			c.do("PORT "+portArg(to), "200")
		} else {
			c.do(fmt.Sprintf("EPRT |1|%v|%d|", to.Addr(), port), "200")
		}
		c.send("RETR pub/1KiB.bin")
		conn, err := ln.Accept()
		require.NoError(t, err)
		require.Equal(t, r.addr.Port()-1, addrPort(conn.RemoteAddr()).Port())
		c.want("150")
		b, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, pattern(1024), string(b))
		conn.Close()
		c.want("226")
		require.Len(t, r.net.asked(), i+1)
		ln.Close()
	}
	c.do("RETR pub/1KiB.bin", "150") // EPRT stays until another takes its place
	c.want("425")                    // where nobody listens any more
}

func TestActiveFallback(t *testing.T) {
	for name, allowed := range map[string]bool{"off": false, "on": true} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(c *Config) { c.ActiveFallback = allowed })
			r.net.mu.Lock()
			r.net.refuse = true
			r.net.mu.Unlock()
			c := r.anonymous()
			_, port := c.listen()
			c.do(fmt.Sprintf("EPRT |1|127.0.0.1|%d|", port), "200")
			c.do("LIST", "150")
			if !allowed {
				c.want("425")
				return
			}
			c.want("226")
			require.Equal(t, []uint16{r.addr.Port() - 1, 0}, r.net.asked())
		})
	}
}

func TestIPv6(t *testing.T) {
	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	probe.Close()
	r := startAt(t, netip.MustParseAddr("::1"), 0, nil)
	c := r.anonymous()
	c.do("TYPE I", "200")
	c.do("PASV", "425 ")
	c.do("EPSV 1", "522 Network protocol not supported, use (2)")
	c.do("EPSV 2", "229 ")
	c.do("EPRT |1|127.0.0.1|50000|", "522 Network protocol not supported, use (2)")
	c.do("EPRT |2|::2|50000|", "504 ")
	c.do("PORT 127,0,0,1,200,0", "504 ")
	require.Equal(t, pattern(1024), c.get("RETR pub/1KiB.bin"))
	ln, port := c.listen()
	c.do(fmt.Sprintf("EPRT |2|::1|%d|", port), "200")
	c.send("RETR pub/1KiB.bin")
	conn, err := ln.Accept()
	require.NoError(t, err)
	c.want("150")
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, pattern(1024), string(b))
	conn.Close()
	c.want("226")
}

// stalled starts a RETR whose data nobody reads: more than all buffers hold.
func stalled(c *client) net.Conn {
	c.t.Helper()
	conn := c.passive()
	c.do("RETR big/256MiB.bin", "1")
	return conn
}

func TestDuringTransfer(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	c.do("TYPE I", "200")
	conn := stalled(c)
	c.do("NOOP", "200")
	require.Contains(t, c.do("STAT", "211-"), "RETR /big/256MiB.bin: ")
	c.send("PWD", "NOOP", "QUIT") // wait for the transfer, and keep their order
	n, err := io.Copy(io.Discard, conn)
	require.NoError(t, err)
	require.EqualValues(t, 256<<20, n)
	c.want("226")
	c.want("257")
	c.want("200")
	c.want("221")
	c.closed()
}

func TestAbort(t *testing.T) {
	r := start(t, nil)
	for name, abor := range map[string]string{
		"plain":            "ABOR\r\n",
		"telnet synch":     "\xff\xf4\xff\xf2ABOR\r\n",
		"urgent mark gone": "\xff\xf4\xffABOR\r\n",
		"urgent IAC gone":  "\xf4\xff\xf2ABOR\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := r.anonymous()
			c.do("TYPE I", "200")
			conn := stalled(c)
			_, err := c.conn.Write([]byte(abor))
			require.NoError(t, err)
			c.want("426")
			c.want("226")
			_, err = io.Copy(io.Discard, conn)
			require.Error(t, err, "an aborted file must not look complete")
			require.Equal(t, pattern(1024), c.get("RETR pub/1KiB.bin"), "the session goes on")
			c.do("ABOR", "226")
		})
	}
	t.Run("before the data connection", func(t *testing.T) {
		c := r.anonymous()
		c.epsv()
		c.do("LIST", "150")
		c.do("ABOR", "426")
		c.want("226")
	})
	t.Run("upload", func(t *testing.T) {
		c := r.writer()
		conn := c.passive()
		c.do("STOR part", "1")
		_, _ = io.WriteString(conn, "abc")
		other := r.writer()
		for other.do("SIZE part", "213") != "213 3" { // what arrived is there to see
			c.do("NOOP", "200")
		}
		other.passive()
		other.do("STOR part", "450")
		other.do("ABOR", "226")
		c.do("ABOR", "426")
		c.want("226")
		require.Equal(t, "abc", c.get("RETR part"), "what arrived is kept, to go on from")
	})
	t.Run("pipelined", func(t *testing.T) {
		c := r.anonymous()
		stalled(c)
		lines := make([]string, maxPending-1)
		for i := range lines {
			lines[i] = "PWD"
		}
		c.send(append(lines, "ABOR")...)
		c.want("426")
		for range lines { // each reply in the order of its command
			c.want("257")
		}
		c.want("226")
	})
	t.Run("pipelined behind the next transfer", func(t *testing.T) {
		c := r.anonymous()
		stalled(c)
		c.send("EPSV", "LIST", "ABOR", "NOOP", "ABOR") // nobody connects for LIST
		c.want("426")
		c.want("229")
		c.want("150")
		c.want("426")
		c.want("226")
		c.want("200")
		c.want("226")
	})
}

func TestTelnetOptions(t *testing.T) {
	r := start(t, nil)
	c := r.open()
	_, err := c.conn.Write([]byte("NO\xff\xfb\x01\xff\xfd\x03\xff\xfc\x05\xff\xfa\x01x\xff\xffy\xff\xf0OP\r\n"))
	require.NoError(t, err)
	b := make([]byte, 6)
	_, err = io.ReadFull(c.r, b)
	require.NoError(t, err)
	require.Equal(t, "\xff\xfe\x01\xff\xfc\x03", string(b), "DONT and WONT")
	c.want("200")
}
