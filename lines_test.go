package porthole_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lines speaks a protocol of command and reply lines.
type lines struct {
	c net.Conn
	r *bufio.Reader
}

func newLines(c net.Conn) *lines { return &lines{c, bufio.NewReader(c)} }

// expect reads one reply, of several lines if it has them, with this code.
func (l *lines) expect(t testing.TB, code string) {
	t.Helper()
	for {
		s, err := l.r.ReadString('\n')
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(s, code), "want %s, got %q", code, s)
		if len(s) > 3 && s[3] == ' ' {
			return
		}
	}
}

func (l *lines) send(t testing.TB, cmd, code string) {
	t.Helper()
	_, err := io.WriteString(l.c, cmd+"\r\n")
	require.NoError(t, err)
	l.expect(t, code)
}
