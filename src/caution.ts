/** What nobody is granted by having asked for it: keys, agents, and what others run or trust are a person's to decide about. */
import { join } from "node:path";

/** Places, and why a person decides about them. */
interface Caution {
  /**
   * Names as they stand in paths, one or several parted by slashes, with all beneath; `*` is any part of a name. One that begins with a
   * slash stands there alone.
   */
  readonly places: readonly string[];
  /** Where the same names mean nothing. */
  readonly but?: readonly string[];
  readonly why: string;
}

/** What is for everybody to read: packages of the system, and those that a project has installed. */
const PACKAGES = ["/usr", "/lib", "/lib64", "/etc/ssl/certs", "/etc/pki/tls/certs", "node_modules", "site-packages"];

/** Files that show how a secret one is to be written. */
const SAMPLES = ["*.example", "*.sample", "*.template", "*.dist"];

/** Not to be read, nor written. */
const SECRETS: readonly Caution[] = [
  {
    places: [".ssh", "/etc/ssh", ".gnupg", "id_rsa*", "id_ed25519*", "id_ecdsa*", "/etc/ssl/private", "/etc/wireguard"],
    why: "private keys",
  },
  {
    places: ["*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk"],
    but: PACKAGES,
    why: "private keys",
  },
  {
    places: [
      ...[".aws", ".azure", ".config/gcloud", ".oci", ".kube", ".docker/config.json", ".config/containers/auth.json"],
      ...[
        ".config/gh",
        ".config/glab-cli",
        ".config/hub",
        ".git-credentials",
        ".netrc",
        ".terraform.d",
        ".vault-token",
      ],
      ...[
        ".npmrc",
        ".yarnrc.yml",
        ".pypirc",
        ".cargo/credentials*",
        ".gem/credentials",
        ".m2/settings.xml",
        ".composer",
      ],
      ...[".pgpass", ".my.cnf", ".config/rclone", ".config/op", ".s3cfg", ".boto", "auth.json", "credentials.json"],
      ...["/run/secrets", "/var/run/secrets", "/etc/NetworkManager/system-connections"],
    ],
    but: PACKAGES,
    why: "keys to services",
  },
  {
    places: [".env", ".env.*", ".envrc", ".secrets", "secrets.*"],
    but: [...PACKAGES, ...SAMPLES],
    why: "keys to services",
  },
  {
    places: [".password-store", ".local/share/keyrings", ".local/share/kwalletd", "*.kdbx", ".config/Bitwarden*"],
    why: "passwords",
  },
  { places: ["/etc/shadow*", "/etc/gshadow*", "/etc/sudoers*", "/etc/security"], why: "passwords of this machine" },
  {
    places: [
      ...[".mozilla", ".thunderbird", ".config/google-chrome*", ".config/chromium", ".config/BraveSoftware"],
      ...[".config/microsoft-edge*", ".config/vivaldi", ".config/opera", ".cache/mozilla", ".cache/google-chrome*"],
      ...["snap/firefox", ".var/app"],
    ],
    why: "a browser's or a mail program's profile: sessions and passwords",
  },
  {
    places: [".*_history", ".lesshst", ".viminfo", ".local/share/fish", ".local/share/recently-used.xbel", ".histfile"],
    why: "what you typed",
  },
  { places: ["/var/mail", "/var/spool", "Maildir", ".config/Signal", ".config/Slack", ".bitcoin"], why: "yours alone" },
];

/** Not to be written: somebody outside of the sandbox will run what stands there. */
const EXECUTED: readonly Caution[] = [
  {
    places: [
      ...["package.json", "package-lock.json", "bun.lock*", "yarn.lock", "pnpm-*.yaml", "bunfig.toml", "node_modules"],
      ...["tsconfig*.json", "jsconfig.json", ".yarnrc*", "deno.json*", "*.config.js", "*.config.ts", "*.config.mjs"],
    ],
    why: "bun, npm and their like run what it says",
  },
  {
    places: [".git/hooks", ".git/config", ".git/info", ".gitconfig", ".config/git", ".gitmodules", ".gitattributes"],
    why: "git runs what it says",
  },
  {
    places: [
      ...[
        "Makefile",
        "makefile",
        "GNUmakefile",
        "*.mk",
        "justfile",
        "Rakefile",
        "Gemfile*",
        "CMakeLists.txt",
        "meson.build",
      ],
      ...[
        "Cargo.toml",
        "build.rs",
        ".cargo/config*",
        "pyproject.toml",
        "setup.py",
        "setup.cfg",
        "conftest.py",
        "*.pth",
      ],
      ...["build.gradle*", "pom.xml", "composer.json", ".husky", ".pre-commit-config.yaml", "lefthook.yml", ".venv"],
      ...["site-packages", "dist-packages", "flake.nix", "shell.nix", ".mise.toml", "mise.toml", ".tool-versions"],
    ],
    why: "builds and tests run what it says",
  },
  {
    places: [
      ".github",
      ".gitlab-ci.yml",
      ".circleci",
      "Jenkinsfile",
      "Dockerfile*",
      "Containerfile*",
      "*compose*.y*ml",
    ],
    why: "a build server or a container engine runs what it says",
  },
  {
    places: [
      ".vscode",
      ".idea",
      ".vim",
      ".vimrc",
      ".config/nvim",
      ".emacs*",
      ".config/emacs",
      ".tmux.conf",
      ".devcontainer",
    ],
    why: "your editor runs what it says",
  },
  {
    places: [
      ...[".bashrc", ".bash_*", ".profile", ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".inputrc", ".config/fish"],
      ...[".pam_environment", ".xinitrc", ".xprofile", ".Xresources", ".config/environment.d"],
    ],
    why: "your shell runs it",
  },
  {
    places: [
      ".config/systemd",
      ".config/autostart",
      ".local/share/applications",
      ".local/bin",
      "*.service",
      "*.desktop",
    ],
    why: "your session starts it",
  },
];

/** Not to be written: all programs of the machine rely on it. */
const SYSTEM: Caution = {
  places: [
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/boot",
    "/var/lib",
    "/var/spool",
    "/var/cache",
  ],
  why: "it belongs to the system",
};

/** Sockets of those who act for their user. */
const AGENTS: readonly Caution[] = [
  {
    places: ["docker.sock", "podman.sock", "containerd.sock", "crio.sock", "lxd", "libvirt*"],
    why: "who commands a container engine commands the machine",
  },
  {
    places: ["ssh-*/agent.*", "S.gpg-agent*", "keyring", "gcr", "agent.sock", "*ssh-agent*", "ssh_auth_sock"],
    why: "an agent that signs with your keys",
  },
  {
    places: ["dbus", "bus", "system_bus_socket", "systemd", "at-spi*", "*dbus-*"],
    why: "a message bus: its services start programs for you",
  },
  {
    places: [".X11-unix", ".ICE-unix", "wayland-*", "pipewire-*", "pulse"],
    why: "your screen, keyboard and sound",
  },
  { places: ["nscd", "sssd", "systemd-resolve*"], why: "a service of the system, which programs do without" },
];

/** Directories beneath a home that hold the things of many programs, or of a whole life. */
const GATHERED = [
  ...[".config", ".local", ".local/share", ".local/state", ".local/lib", ".cache", ".var", "snap"],
  ...["Desktop", "Documents", "Downloads", "Music", "Pictures", "Videos", "Public", "Templates"],
];

/** Directories of which a part is as good as the whole: read-only data that came with the system or with packages. */
const COLLECTIONS = [
  /^(.*?\/node_modules)\//,
  /^(.*?\/(?:site|dist)-packages)\//,
  /^(\/usr\/share\/zoneinfo)\//,
  /^(\/etc\/ssl\/certs|\/etc\/fonts|\/etc\/terminfo|\/lib\/terminfo|\/etc\/pki\/tls\/certs|\/etc\/ca-certificates)\//,
  /^(\/usr\/(?:local\/)?(?:share|libexec)\/[^/]+)\//,
  /^(\/usr\/lib\/[^/]+-linux-[^/]+\/[^/]+)\//,
  /^(\/(?:usr\/(?:local\/)?)?lib\/(?![^/]+-linux-)[^/]+)\//,
] as const;

/** Programs that would act as somebody else. */
const RAISING = /\/(?:sudo|su|doas|pkexec|runuser|run0|chroot|nsenter|unshare|newgrp|docker|podman|systemd-run)$/;

/** Where people keep their own things, and where they are now. */
export interface Places {
  readonly home: string;
  readonly cwd: string;
}

/** Why a path is not to be read, unless a person says so. */
export const secretOf = whyOf(SECRETS);
/** Why a path is not to be written, unless a person says so; beside that it may be a secret. */
export const trustOf = whyOf([...EXECUTED, SYSTEM]);
/** Whose socket a path is. */
export const agentOf = whyOf(AGENTS);

/** Why a directory as a whole is too much to be granted, whatever is in it. */
export function breadthOf(directory: string, { home, cwd }: Places): string | undefined {
  if (directory === "/") return "/ cannot be granted";
  if (directory === home) return "all of your home would be open";
  if ([home, cwd].some((inner) => inner.startsWith(`${directory}/`)))
    return `all of ${directory} would be open, with what lies beside your own directory`;
  const parts = directory.split("/").length - 1;
  if (parts === 1 || (parts === 2 && /^\/(?:usr|var|home|run|mnt|media)\//.test(directory)))
    return `all of ${directory} would be open`;
  const gathered = GATHERED.some((name) => directory === join(home, name));
  return gathered ? `the things of many programs are in ${directory}` : undefined;
}

/** The secrets that stand in known places, whether or not they are there. */
export function secretsOf(home: string): string[] {
  const places = SECRETS.flatMap(({ places }) => places).filter((place) => !place.includes("*"));
  return places.map((place) => (place.startsWith("/") ? place : join(home, place)));
}

/** The directory that a path is a part of, where a part is as good as the whole. */
export function collectionOf(path: string): string | undefined {
  for (const pattern of COLLECTIONS) {
    const [, directory] = pattern.exec(path) ?? [];
    if (directory !== undefined) return directory;
  }
  return undefined;
}

export function raises(program: string): boolean {
  return RAISING.test(program);
}

/** A library, by its name. */
export function isLibrary(path: string): boolean {
  return /\.so(?:\.\d[\w.]*)?$/.test(path);
}

/** Where programs put what is theirs for a while. */
const TEMPORARY = ["/tmp", "/var/tmp"];

/** What a path is or lies in, right beneath a directory of temporary files. */
export function temporaryOf(path: string): string | undefined {
  const directory = TEMPORARY.find((each) => path.startsWith(`${each}/`));
  return directory === undefined ? undefined : `${directory}/${path.slice(directory.length + 1).split("/")[0]}`;
}

/** A name of which a part was drawn by lot, or counted: another one is there the next time. */
export function isRandom(name: string): boolean {
  return name
    .split(/[-_.@+]/)
    .some(
      (part) =>
        /^\d{3,}$/.test(part) ||
        (part.length >= 4 && /\d/.test(part) && /[a-z]/i.test(part)) ||
        (part.length >= 6 && /[a-z][A-Z]|[A-Z]{2}[a-z]/.test(part)),
    );
}

function whyOf(cautions: readonly Caution[]): (path: string) => string | undefined {
  const rows = cautions.map(({ places, but, why }) => ({
    why,
    at: patternOf(places),
    but: but === undefined ? undefined : patternOf(but),
  }));
  return (path) => rows.find(({ at, but }) => at.test(path) && but?.test(path) !== true)?.why;
}

function patternOf(places: readonly string[]): RegExp {
  const one = (place: string) => {
    const names = place.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^/]*");
    return names.startsWith("/") ? `^${names}` : `/${names}`;
  };
  return new RegExp(`(?:${places.map(one).join("|")})(?:/|$)`);
}
