package ftp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/services"
)

func TestConfigValidate(t *testing.T) {
	c := DefaultConfig()
	require.NoError(t, c.Validate())
	for key, edit := range map[string]func(*Config){
		"root":                 func(c *Config) { c.Root = filepath.Join(t.TempDir(), "none") },
		"banner":               func(c *Config) { c.Banner = "a\r\nb" },
		"anonymous":            func(c *Config) { c.Anonymous = "yes" },
		"users[0].name":        func(c *Config) { c.Users = []User{{Name: "ftp", Password: "x"}} },
		"users[1].name":        func(c *Config) { c.Users = []User{{Name: "a", Password: "x"}, {Name: "a", Password: "x"}} },
		"users[0].password":    func(c *Config) { c.Users = []User{{Name: "a"}} },
		"users[0].account":     func(c *Config) { c.Users = []User{{Name: "a", Password: "x", Account: "\n"}} },
		"users[0].root":        func(c *Config) { c.Users = []User{{Name: "a", Password: "x", Root: "/dev/null"}} },
		"login-tries":          func(c *Config) { c.LoginTries = 0 },
		"passive-ports":        func(c *Config) { c.PassivePorts = PortRange{100, 2000} },
		"max-connections":      func(c *Config) { c.MaxConnections = 0 },
		"max-per-client":       func(c *Config) { c.MaxPerClient = 0 },
		"login-timeout":        func(c *Config) { c.LoginTimeout = 0 },
		"idle-timeout":         func(c *Config) { c.IdleTimeout = -1 },
		"data-connect-timeout": func(c *Config) { c.DataConnectTimeout = 48 * time.Hour },
		"data-idle-timeout":    func(c *Config) { c.DataIdleTimeout = 0 },
		"commands-per-second":  func(c *Config) { c.CommandsPerSecond = 0 },
		"max-file-size":        func(c *Config) { c.MaxFileSize = 0 },
		"memory":               func(c *Config) { c.Memory = 1 },
	} {
		c := DefaultConfig()
		edit(&c)
		var ce *services.ConfigError
		require.ErrorAs(t, c.Validate(), &ce, key)
		require.Equal(t, key, ce.Key)
	}
	for text, want := range map[string]PortRange{"any": {}, "50000-50999": {50000, 50999}, "2000 - 2000": {2000, 2000}} {
		var p PortRange
		require.NoError(t, p.UnmarshalText([]byte(text)))
		require.Equal(t, want, p)
	}
	for _, text := range []string{"", "1", "2-1", "0-5", "1-70000", "a-b"} {
		require.Error(t, new(PortRange).UnmarshalText([]byte(text)), text)
	}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct{ cwd, arg, want string }{
		{"/", "a", "/a"}, {"/a", "b", "/a/b"}, {"/a", "/b", "/b"}, {"/a/b", "..", "/a"}, {"/", "..", "/"},
		{"/a", "../../../x", "/x"}, {"/", "./a//b/.", "/a/b"}, {"/a", "", "/a"}, {"/", "a\\b", "/a\\b"}, {"/", " x ", "/ x "},
		{"/", "a\nb", ""}, {"/", "a\x00b", ""}, {"/", strings.Repeat("x", 256), ""}, {"/", strings.Repeat("x/", 65), ""},
	} {
		got, err := resolve(tt.cwd, tt.arg)
		require.Equal(t, tt.want, got, tt.arg)
		require.Equal(t, tt.want == "", err != nil, tt.arg)
	}
}

// What goes out in TYPE A and comes back in TYPE A is what it was, however the
// pieces are cut.
func TestASCIIProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(rapid.StringOfN(rapid.SampledFrom([]rune("\r\r\n\na\x00")), 0, 50, -1).Draw(t, "text"))
		var wire []byte
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "out")
			wire, rest = appendNVT(wire, rest[:n]), rest[n:]
		}
		var back []byte
		held := false
		for rest := wire; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "in")
			back, held = appendText(back, rest[:n], held)
			rest = rest[n:]
		}
		if held {
			back = append(back, '\r')
		}
		require.Equal(t, string(text), string(back))
		for i, b := range wire {
			require.False(t, b == '\n' && (i == 0 || wire[i-1] != '\r'), "a bare LF went out")
		}
	})
}

// The tree in memory answers every sequence of calls as a directory does.
func TestMemFSIsADirectory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "memfs")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		root, err := os.OpenRoot(dir)
		require.NoError(t, err)
		defer root.Close()
		both := []fileSystem{&diskFS{root}, newMemFS(1<<30, time.Now)}
		name := rapid.SampledFrom([]string{".", "a", "b", "a/b", "a/c", "b/a", "a/b/c", "no/such"})
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			op := rapid.IntRange(0, 5).Draw(t, "op")
			n, to := name.Draw(t, "name"), name.Draw(t, "to")
			flag := rapid.SampledFrom([]int{0, os.O_TRUNC, os.O_APPEND, os.O_EXCL}).Draw(t, "flag")
			data := rapid.StringN(0, 40000, -1).Draw(t, "data")
			var got [2]string
			for i, f := range both {
				got[i] = act(f, op, n, to, flag, data)
			}
			require.Equal(t, got[0], got[1], "op %d %s %s flag %d", op, n, to, flag)
		}
	})
}

func act(f fileSystem, op int, name, to string, flag int, data string) string {
	result := func(err error) string {
		if err != nil {
			return "error"
		}
		return "ok"
	}
	switch op {
	case 0:
		return result(f.Mkdir(name))
	case 1:
		if name == "." {
			return ""
		}
		return result(f.Remove(name))
	case 2:
		if name == "." || to == "." {
			return ""
		}
		return result(f.Rename(name, to))
	case 3:
		w, err := f.Create(name, flag)
		if err != nil {
			return "error"
		}
		defer w.Close()
		_, err = io.WriteString(w, data)
		return result(err)
	case 4:
		r, err := f.Open(name)
		if err != nil {
			return "error"
		}
		defer r.Close()
		info, err := r.Stat()
		if err != nil || info.IsDir() {
			return fmt.Sprint("dir", err)
		}
		b, err := io.ReadAll(r)
		return fmt.Sprint(info.Size(), string(b), err)
	}
	d, err := f.Open(name)
	if err != nil {
		return "error"
	}
	defer d.Close()
	entries, err := d.ReadDir(100)
	if err != nil && !errors.Is(err, io.EOF) {
		return "error"
	}
	seen := map[string]fs.FileMode{}
	for _, e := range entries {
		seen[e.Name()] = e.Type()
	}
	return fmt.Sprint(seen)
}

func TestMemFSLimits(t *testing.T) {
	m := newMemFS(2*memChunk, time.Now)
	w, err := m.Create("a", 0)
	require.NoError(t, err)
	n, err := w.Write(make([]byte, 3*memChunk))
	require.Equal(t, 2*memChunk, n)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, m.Remove("a"))
	require.EqualValues(t, 2*memChunk, m.used, "still open")
	require.NoError(t, w.Close())
	require.Zero(t, m.used)
	for i := 0; ; i++ {
		if err := m.Mkdir(fmt.Sprint(i)); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.Equal(t, memNodes-1, i)
			break
		}
	}
	require.NoError(t, m.Remove("7"))
	require.NoError(t, m.Mkdir("7"))
}

func TestMemFSAtOnce(t *testing.T) {
	m := newMemFS(1<<20, time.Now)
	require.NoError(t, fillSample(m, services.Host{Name: "h", Zone: "z"}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				if w, err := m.Create("f", os.O_TRUNC); err == nil {
					_, _ = io.WriteString(w, "0123456789")
					w.Close()
				}
				if r, err := m.Open("f"); err == nil {
					_, _ = io.Copy(io.Discard, r)
					r.Close()
				}
				_ = m.Rename("f", fmt.Sprint(i))
				if i == j%8 {
					_ = m.Remove(fmt.Sprint(i))
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"USER anonymous\r\n", "\xff\xf4\xff\xf2ABOR\r\n", "\xff\xf4\xffABOR\r\n", "\xf4\xff\xf2ABOR\r\n", "\xff\xfb\x01\xff\xfd\x02",
		"\xff\xfa\x01\xff\xff\xff\xf0NOOP\n", "CWD a\r\x00b\r\n", "STOR  lead and trail \r\n", "\r\n\n\r\r\n", "RETR \xff\xff\r\n",
		strings.Repeat("x", maxLine) + "\r\n", strings.Repeat("x", maxLine+1) + "\r\nNOOP\r\n", "PORT 1,2,3,4,5,6\r\n", "EPRT |1|1.2.3.4|5|\r\n", "EPRT |2|::1|65535|\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		lr := newLineReader(strings.NewReader(string(b)))
		for {
			in := lr.next()
			if in.err != nil {
				return
			}
			if len(in.line) > maxLine || strings.Contains(in.line, "\n") || len(in.telnet) != 0 && len(in.telnet) != 3 {
				t.Fatalf("%+v", in)
			}
			verb, arg, ok := parseLine(in.line)
			if ok && (verb != strings.ToUpper(verb) || len(verb)+len(arg) > len(in.line)) {
				t.Fatalf("%q %q", verb, arg)
			}
			if p, err := resolve("/a/b", arg); err == nil {
				if p[0] != '/' || !fs.ValidPath(rel(p)) && plain(p) && isUTF8(p) {
					t.Fatalf("%q gives %q", arg, p)
				}
			}
			parsePort(arg)
			parseEprt(arg)
			parseFacts(arg)
			withoutOptions(arg)
		}
	})
}

func isUTF8(s string) bool { return strings.ToValidUTF8(s, "") == s }
