#!/usr/bin/env bash
# Runs a command beside a PostgreSQL server of its own:
#
#	./postgres.sh go test ./...
#
# The server has a new data directory, listens on a free port of the loopback
# interface, and ends with the command, whose exit status is passed on. The command
# sees TASKPOOL_POSTGRES_URL and, for ./postgres.sh restart, TASKPOOL_POSTGRES_DATA:
# that kills the server, as a crash does, and starts it again. Its settings are those
# of production but for the memory: what was committed outlives that.
#
# It needs initdb and pg_ctl: in PATH, where pg_config says, or where Debian puts them.
# Started as root it runs the server as the user postgres.
set -euo pipefail

die() { echo "postgres.sh: $*" >&2; exit 1; }

bin=
for d in "$(dirname "$(command -v pg_ctl || echo /)")" "$(pg_config --bindir 2>/dev/null || true)" \
	$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
	if [ -x "$d/initdb" ] && [ -x "$d/pg_ctl" ]; then bin=$d; break; fi
done
[ -n "$bin" ] || die "PostgreSQL is not installed (Debian: apt-get install postgresql)"

as_postgres() { "$@"; }
if [ "$(id -u)" = 0 ]; then
	as_postgres() { runuser -u postgres -- "$@"; }
fi

if [ "${1-}" = installed ]; then exit; fi
if [ "${1-}" = restart ]; then
	cd / # which the user postgres may enter
	as_postgres "$bin/pg_ctl" -s -w -t 600 -m immediate -D "$TASKPOOL_POSTGRES_DATA/data" -l "$TASKPOOL_POSTGRES_DATA/log" restart
	exit
fi
[ $# -gt 0 ] || die "usage: postgres.sh COMMAND [ARGUMENT]..."

dir=$(mktemp -d)
child=
stop() {
	trap - EXIT
	if [ -e "$dir/data/postmaster.pid" ]; then # its first line is the server's process id
		(cd / && as_postgres "$bin/pg_ctl" -s -w -m immediate -D "$dir/data" stop) || true
	fi
	rm -rf "$dir"
}
trap stop EXIT
trap 'kill -TERM "$child" 2>/dev/null || exit 1' INT TERM HUP

if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
(
	umask 077
	printf '%s\n' "$password" >"$dir/password"
	if [ "$(id -u)" = 0 ]; then chown postgres "$dir/password"; fi
	cd /
	as_postgres "$bin/initdb" -D "$dir/data" -U postgres --pwfile "$dir/password" -A scram-sha-256 --no-sync -E UTF8 --no-locale >/dev/null
)

# A port that is free now may be taken a moment later, so what counts is that the
# server starts on it.
started=
for _ in $(seq 20); do
	port=$((20000 + (RANDOM << 15 | RANDOM) % 12000))
	if (cd / && as_postgres "$bin/pg_ctl" -s -w -t 600 -D "$dir/data" -l "$dir/log" start \
		-o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200") >/dev/null 2>&1; then
		started=1
		break
	fi
	grep -q 'could not bind' "$dir/log" || break
done
[ -n "$started" ] || { cat "$dir/log" >&2; die "the server does not start"; }

export TASKPOOL_POSTGRES_URL="postgres://postgres:$password@127.0.0.1:$port/postgres?sslmode=disable"
export TASKPOOL_POSTGRES_DATA="$dir"

# In the background, so that a signal to this script is acted on at once; with the
# script's input, which such a command would not have by itself.
"$@" <&0 &
child=$!
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the command
	wait "$child" && status=0 || status=$?
done
exit "$status"
