"""Roles and actions → who may do what; whatever is not in this table is refused."""

from enum import StrEnum


class Action(StrEnum):
    """What a route does; each route of people names exactly one."""

    OPEN = "open"
    """Nothing of anybody's: the page to sign in, static files."""
    SELF = "self"
    """Whoever is signed in, with what is their own: account, language, session."""
    SCAN_READ = "scan.read"
    SCAN_RETRY = "scan.retry"
    SCAN_REMAKE = "scan.remake"
    STUDY_READ = "study.read"
    STUDY_EXPORT = "study.export"
    STUDY_STORE = "study.store"
    STUDY_SHARE = "study.share"
    STUDY_DELETE = "study.delete"
    SITE_READ = "site.read"
    SITE_MANAGE = "site.manage"
    DOSE_READ = "dose.read"
    PEOPLE_MANAGE = "people.manage"
    RECIPE_READ = "recipe.read"
    RECIPE_MANAGE = "recipe.manage"
    RETENTION_MANAGE = "retention.manage"
    NODE_MANAGE = "node.manage"
    AUDIT_READ = "audit.read"
    GLASS_BREAK = "glass.break"
    """Open, for a stated reason and an hour, a study that is not theirs to see."""
    GLASS_READ = "glass.read"


class Role(StrEnum):
    """What somebody is at a tenant, and with it at everything below that tenant."""

    TECHNOLOGIST = "technologist"
    RADIOLOGIST = "radiologist"
    EXPERT = "expert"
    PHYSICIST = "physicist"
    SITE_ADMIN = "site_admin"
    AUDITOR = "auditor"
    OPERATOR = "operator"


_A = Action
MAY: dict[Role, frozenset[Action]] = {
    Role.TECHNOLOGIST: frozenset(
        {_A.SCAN_READ, _A.SCAN_RETRY, _A.STUDY_READ, _A.STUDY_STORE, _A.SITE_READ, _A.DOSE_READ, _A.RECIPE_READ}
    ),
    Role.RADIOLOGIST: frozenset(
        {_A.SCAN_READ, _A.SCAN_REMAKE, _A.STUDY_READ, _A.STUDY_EXPORT, _A.STUDY_STORE, _A.STUDY_SHARE, _A.DOSE_READ,
         _A.RECIPE_READ, _A.GLASS_BREAK}
    ),
    Role.EXPERT: frozenset({_A.SCAN_READ, _A.STUDY_READ, _A.STUDY_EXPORT, _A.RECIPE_READ, _A.GLASS_BREAK}),
    Role.PHYSICIST: frozenset(
        {_A.SCAN_READ, _A.SCAN_REMAKE, _A.STUDY_READ, _A.STUDY_EXPORT, _A.SITE_READ, _A.DOSE_READ, _A.RECIPE_READ}
    ),
    Role.SITE_ADMIN: frozenset(
        {_A.SCAN_READ, _A.SCAN_RETRY, _A.SITE_READ, _A.SITE_MANAGE, _A.DOSE_READ, _A.PEOPLE_MANAGE, _A.RECIPE_READ,
         _A.GLASS_READ}
    ),
    Role.AUDITOR: frozenset({_A.AUDIT_READ, _A.GLASS_READ}),
    Role.OPERATOR: frozenset(
        {_A.SCAN_READ, _A.SCAN_RETRY, _A.STUDY_DELETE, _A.SITE_READ, _A.SITE_MANAGE, _A.PEOPLE_MANAGE, _A.RECIPE_READ,
         _A.RECIPE_MANAGE, _A.RETENTION_MANAGE, _A.NODE_MANAGE}
    ),
}  # fmt: skip
"""Roles of care see images and change no system; those who run systems see no images (least privilege)."""

MAY_GRANT: dict[Role, frozenset[Role]] = {role: frozenset() for role in Role} | {
    Role.SITE_ADMIN: frozenset({Role.TECHNOLOGIST, Role.RADIOLOGIST, Role.EXPERT, Role.PHYSICIST, Role.SITE_ADMIN}),
    Role.OPERATOR: frozenset(Role),
}
"""What a role gives to others at its tenant and below: nobody makes somebody more than they are themselves."""


def roles_with(action: Action) -> tuple[Role, ...]:
    """The roles that may do this."""
    return tuple(role for role in Role if action in MAY[role])
