/*
 * Prints the programs of test_verifier.c as JSON lines instead of loading them: its own code makes the maps, the types and the
 * fix-ups, and the functions of libbpf that it would call stand here. Descriptors are invented numbers from FIRST_FD on;
 * what comes after a load is never reached. OPTS is `const` for a libbpf before 1.2.
 */
#define main selftest_main
#include "test_verifier.c"
#undef main
#include <setjmp.h>

#define FIRST_FD 100000
#define FIRST_KFUNC 0x6b000000

static int next_fd = FIRST_FD, next_kfunc = FIRST_KFUNC;
static const char *case_file = "", *case_name = "", *case_target = "";
static int case_index;
static char case_kfuncs[4096];
static FILE *out;
static jmp_buf recorded;

static void text(const char *s)
{
	fputc('"', out);
	for (; *s; s++)
		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if ((unsigned char)*s < 32)
			fprintf(out, "\\u%04x", *s);
		else
			fputc(*s, out);
	fputc('"', out);
}

static void hex(const void *data, size_t size)
{
	const unsigned char *p = data;

	fputc('"', out);
	for (; size--; p++)
		fprintf(out, "%02x", *p);
	fputc('"', out);
}

int bpf_map_create(enum bpf_map_type type, const char *name, __u32 key_size, __u32 value_size, __u32 max_entries,
		   const struct bpf_map_create_opts *opts)
{
	fprintf(out, "{\"what\":\"map\",\"fd\":%d,\"type\":%d,\"key_size\":%u,\"value_size\":%u,\"max_entries\":%u", next_fd, type, key_size,
		value_size, max_entries);
	if (opts)
		fprintf(out, ",\"flags\":%u,\"inner\":%d,\"btf\":%d,\"key_type\":%u,\"value_type\":%u", opts->map_flags, opts->inner_map_fd,
			opts->btf_fd, opts->btf_key_type_id, opts->btf_value_type_id);
	fprintf(out, "}\n");
	return next_fd++;
}

int bpf_btf_load(const void *data, size_t size, OPTS struct bpf_btf_load_opts *opts)
{
	fprintf(out, "{\"what\":\"btf\",\"fd\":%d,\"data\":", next_fd);
	hex(data, size);
	fprintf(out, "}\n");
	return next_fd++;
}

int bpf_prog_load(enum bpf_prog_type type, const char *name, const char *license, const struct bpf_insn *insns, size_t count,
		  OPTS struct bpf_prog_load_opts *opts)
{
	if (!opts)
		return next_fd++;
	fprintf(out, "{\"what\":\"prog\",\"index\":%d,\"file\":", case_index);
	text(case_file);
	fprintf(out, ",\"name\":");
	text(case_name);
	fprintf(out, ",\"type\":%d,\"license\":", type);
	text(license);
	fprintf(out, ",\"attach_type\":%d,\"flags\":%u,\"btf\":%d,\"target\":", opts->expected_attach_type, opts->prog_flags, opts->prog_btf_fd);
	text(opts->attach_btf_id ? case_target : "");
	fprintf(out, ",\"kfuncs\":[%s],\"func_info_size\":%u,\"func_info\":", case_kfuncs, opts->func_info_rec_size);
	hex(opts->func_info, opts->func_info_rec_size * (size_t)opts->func_info_cnt);
	fprintf(out, ",\"insns\":");
	hex(insns, count * sizeof(*insns));
	fprintf(out, "}\n");
	longjmp(recorded, 1);
}

int libbpf_find_vmlinux_btf_id(const char *name, enum bpf_attach_type type)
{
	case_target = name;
	return 1;
}

struct btf *btf__load_vmlinux_btf(void)
{
	return (struct btf *)1;
}

__s32 btf__find_by_name_kind(const struct btf *btf, const char *name, __u32 kind)
{
	size_t used = strlen(case_kfuncs);

	snprintf(case_kfuncs + used, sizeof(case_kfuncs) - used, "%s[%d,\"%s\"]", used ? "," : "", next_kfunc, name);
	return next_kfunc++;
}

void btf__free(struct btf *btf)
{
}

int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags)
{
	return 0;
}

int libbpf_probe_bpf_map_type(enum bpf_map_type type, const void *opts)
{
	return 1;
}

int testing_prog_flags(void)
{
	return 0;
}

int cap_enable_effective(__u64 caps, __u64 *old)
{
	return 0;
}

int cap_disable_effective(__u64 caps, __u64 *old)
{
	return 0;
}

int main(void)
{
	static int i;
	int passes = 0, errors = 0;

	out = fdopen(3, "w");
	for (i = 0; i < (int)ARRAY_SIZE(tests); i++) {
		if (!strncmp(tests[i].descr, "@file ", 6)) {
			case_file = tests[i].descr + 6;
			case_index = 0;
			continue;
		}
		case_index++;
		case_name = tests[i].descr;
		case_kfuncs[0] = 0;
		if (!setjmp(recorded))
			do_test_single(&tests[i], false, &passes, &errors);
		free(tests[i].fill_insns);
	}
	return fclose(out) ? 1 : 0;
}
