package capture

import (
	"fmt"
	"strconv"
	"strings"
)

// idsWanted is how many subordinate ids a user namespace needs: the proxy's, and nobody's for tests of strangers.
const idsWanted = 65_535

// subordinate finds the range of ids that a user may map (subuid(5)): lines of user:start:count, the user by name or by number.
func subordinate(file string, uid int, passwd string) (start, count int, err error) {
	name := userName(passwd, uid)
	for line := range strings.Lines(file) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.Itoa(uid) {
			continue
		}
		s, err1 := strconv.Atoi(f[1])
		c, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && s > 0 && c >= idsWanted {
			return s, c, nil
		}
	}
	return 0, 0, fmt.Errorf("user %s has no range of %d ids", name, idsWanted)
}

// userName is the name of a user (passwd(5)), or the number as text.
func userName(passwd string, uid int) string {
	for line := range strings.Lines(passwd) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[2] == strconv.Itoa(uid) {
			return f[0]
		}
	}
	return strconv.Itoa(uid)
}
