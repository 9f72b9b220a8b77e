package ftp

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tool finds a stock client, or skips; where the end-to-end tests must run
// (PORTHOLE_E2E=require) a missing one is a failure.
func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil && os.Getenv("PORTHOLE_E2E") == "require" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	return p
}

// run runs a stock client, bounded in time, with a home of its own.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, name), args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8", "no_proxy=*")
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	if err != nil {
		t.Logf("%s %q: %v\n%s", name, args, err, diag.String())
	}
	return out.String(), err
}

func ok(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	require.NoError(t, err)
	return out
}

func TestCurl(t *testing.T) {
	dir := t.TempDir()
	r := start(t, func(c *Config) { c.Root = dir })
	want := pattern(3 << 20)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "b", "file.bin"), []byte(want), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "with space"), []byte("x"), 0o644))
	url := "ftp://" + r.addr.String() + "/"
	for name, flags := range map[string][]string{
		"EPSV": {}, "PASV": {"--disable-epsv"},
		"EPRT": {"--ftp-port", "127.0.0.1"}, "PORT": {"--ftp-port", "127.0.0.1", "--disable-eprt"},
	} {
		t.Run(name, func(t *testing.T) {
			curl := func(args ...string) string {
				t.Helper()
				return ok(t, "curl", append(append([]string{"-sS", "--ftp-skip-pasv-ip"}, flags...), args...)...)
			}
			require.Equal(t, want, curl(url+"a/b/file.bin"), "get")
			require.Equal(t, want, curl("--ftp-method", "nocwd", url+"a/b/file.bin"))
			require.Equal(t, want[1000:2000], curl("-r", "1000-1999", url+"a/b/file.bin"))
			require.Equal(t, "b\nwith space\n", strings.ReplaceAll(curl("--list-only", url+"a/"), "\r", ""))
			require.Contains(t, curl(url+"a/"), "with space")
			require.Equal(t, "x", curl(url+"a/with%20space"))
			head := curl("-I", url+"a/b/file.bin")
			require.Contains(t, head, "Content-Length: 3145728")
			require.Contains(t, head, "Last-Modified: ")

			local := filepath.Join(t.TempDir(), "file.bin") // get -C -
			require.NoError(t, os.WriteFile(local, []byte(want[:1234567]), 0o600))
			curl("-C", "-", "-o", local, url+"a/b/file.bin")
			got, err := os.ReadFile(local)
			require.NoError(t, err)
			require.True(t, want == string(got))

			up := filepath.Join(dir, "up-"+name)
			user := []string{"-u", "ann:secret", "-T", local}
			curl(append(user, url+"up-"+name)...)
			requireFile(t, up, want)
			require.NoError(t, os.Truncate(up, 99999)) // put -C -
			curl(append(user, "-C", "-", url+"up-"+name)...)
			requireFile(t, up, want)
			curl(append(user, "-a", url+"up-"+name)...)
			requireFile(t, up, want+want)
			curl("-u", "ann:secret", "-T", local, "--ftp-create-dirs", url+"n-"+name+"/m/f")
			requireFile(t, filepath.Join(dir, "n-"+name, "m", "f"), want)
			curl("-u", "ann:secret", "-Q", "-DELE up-"+name, url)
			require.NoFileExists(t, up)
		})
	}
	_, err := run(t, "curl", "-sS", "-u", "ann:wrong", url)
	require.Error(t, err)
	_, err = run(t, "curl", "-sS", "-T", filepath.Join(dir, "a", "b", "file.bin"), url+"no")
	require.Error(t, err, "anonymous may not write")
	// --ssl asks for TLS, takes no for an answer, and goes on.
	require.Equal(t, "x", ok(t, "curl", "-sS", "--ssl", url+"a/with%20space"))
	require.Equal(t, want, ok(t, "curl", "-sS", "-B", url+"a/b/file.bin;type=i"))
}

func requireFile(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.True(t, want == string(got), "%s: %d bytes, want %d", name, len(got), len(want))
}

func TestLftp(t *testing.T) {
	for name, mode := range map[string]string{"passive": "on", "active": "off"} {
		t.Run(name, func(t *testing.T) {
			dir, local := t.TempDir(), t.TempDir()
			r := start(t, func(c *Config) { c.Root = dir })
			lftp := func(script string) (string, error) {
				t.Helper()
				return run(t, "lftp", "--norc", "-c", strings.Join([]string{
					"set net:max-retries 2", "set net:reconnect-interval-base 1", "set net:timeout 60",
					"set ftp:passive-mode " + mode, "set ftp:port-ipv4 127.0.0.1", "set cmd:fail-exit yes", "lcd " + local,
					"open -u ann,secret ftp://" + r.addr.String() + "/", script,
				}, "; "))
			}
			big := pattern(2 << 20)
			for _, f := range []string{"tree/one", "tree/deep/two", "tree/deep/größe x"} {
				p := filepath.Join(local, filepath.FromSlash(f))
				require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
				require.NoError(t, os.WriteFile(p, []byte(big[:len(f)*1000]), 0o644))
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), []byte(big), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(local, "big"), []byte(big[:777777]), 0o644))

			out, err := lftp("ls")
			require.NoError(t, err)
			require.Contains(t, out, " big\n")
			_, err = lftp("get -c big; put big -o big2; mv big2 big3; mkdir -p d/e; put -c big -o d/e/f")
			require.NoError(t, err)
			requireFile(t, filepath.Join(local, "big"), big)
			requireFile(t, filepath.Join(dir, "big3"), big)
			requireFile(t, filepath.Join(dir, "d", "e", "f"), big)
			require.NoFileExists(t, filepath.Join(dir, "big2"))

			_, err = lftp("mirror -R tree up; mirror up down; mirror -P4 up down4; rm big3; rm -r d")
			require.NoError(t, err)
			for _, tree := range []string{dir + "/up", local + "/down", local + "/down4"} {
				for _, f := range []string{"one", "deep/two", "deep/größe x"} {
					requireFile(t, filepath.Join(tree, f), big[:len("tree/"+f)*1000])
				}
			}
			require.NoFileExists(t, filepath.Join(dir, "big3"))
			require.NoDirExists(t, filepath.Join(dir, "d"))
			out, err = lftp("cls -1; find up")
			require.NoError(t, err)
			require.Contains(t, out, "up/deep/größe x")
			_, err = lftp("pget -n 4 big -o parts; cat big > cat")
			require.NoError(t, err)
			requireFile(t, filepath.Join(local, "parts"), big)
			requireFile(t, filepath.Join(local, "cat"), big)
			_, err = lftp("get nosuch")
			require.Error(t, err)
			_, err = lftp("ls nosuch")
			require.Error(t, err)
			_, err = lftp("cd nosuch")
			require.Error(t, err)
			if mode == "off" {
				_, port, _ := net.SplitHostPort(r.addr.String())
				for _, p := range r.net.asked() {
					require.Equal(t, port, itoa(int(p)+1), "active data connections leave from the port below")
				}
			}
		})
	}
}
