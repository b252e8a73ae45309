//! The scripts for the shells. They ask the program at each key, so that they know the names of the moment, and stay as they are
//! when commands change.

use clap_complete::Shell;

/// The script of a shell that has one; the others get theirs of the definition alone.
pub const fn of(shell: Shell) -> Option<&'static str> {
    match shell {
        Shell::Bash => Some(BASH),
        Shell::Zsh => Some(ZSH),
        Shell::Fish => Some(FISH),
        _ => None,
    }
}

/// `=` and `:` part words for bash, and not for the program: words are put together again, and what is typed of the last one
/// already is cut off the candidates.
const BASH: &str = r#"# Completions of lbctl for bash.
_lbctl() {
    local words=() word index=0 at=0 glue=0 line value about current cut
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if (( at > 0 )) && [[ $word == [=:]* || $glue == 1 ]] && (( ${#words[@]} > 1 )); then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        [[ $word == *[=:] ]] && glue=1 || glue=0
        (( at++ ))
    done
    index=$(( ${#words[@]} - 2 ))
    current=${words[index + 1]}
    cut=${current%"${COMP_WORDS[COMP_CWORD]}"}
    [[ ${COMP_WORDS[COMP_CWORD]} == [=:] ]] && cut=$current
    while IFS= read -r line; do
        value=${line%%$'\t'*}
        if [[ $value == :files ]]; then
            compopt -o default 2> /dev/null
            return
        fi
        COMPREPLY+=("$(printf '%q' "${value#"$cut"}")")
    done < <(LBCTL_COMPLETE=$index "${COMP_WORDS[0]}" "${words[@]:1}" 2> /dev/null)
    if (( ${#COMPREPLY[@]} == 1 )) && [[ ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -F _lbctl lbctl
"#;

const ZSH: &str = r#"#compdef lbctl
# Completions of lbctl for zsh.
_lbctl() {
    local line value
    local -a goes_on ends described
    for line in "${(@f)$(LBCTL_COMPLETE=$(( CURRENT - 2 )) "${words[1]}" "${(@)words[2,CURRENT]}" 2> /dev/null)}"; do
        value=${line%%$'\t'*}
        case $value in
            '') ;;
            :files) _files; return ;;
            */) goes_on+=("$value") ;;
            *) ends+=("$value"); described+=("${value//:/\\:}:${${line#"$value"}#$'\t'}") ;;
        esac
    done
    (( ${#goes_on} )) && compadd -S '' -- "${goes_on[@]}"
    (( ${#ends} )) && _describe lbctl described
}
if [[ $funcstack[1] == _lbctl ]]; then
    _lbctl "$@"
else
    compdef _lbctl lbctl
fi
"#;

const FISH: &str = r#"# Completions of lbctl for fish.
function __lbctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (env LBCTL_COMPLETE=(math (count $words) - 2) $words[1] $words[2..] 2> /dev/null)
    if test "$found[1]" = :files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end
complete -c lbctl -f -a '(__lbctl_complete)'
"#;
