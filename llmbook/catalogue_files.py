"""Where the translation catalogues of `fetch("translations")` stand: pinned wheels of seven applications."""

# (requirement, bytes of the wheel, ((path of the catalogue in the wheel, its sha256), ...))
CATALOGUES: tuple[tuple[str, int, tuple[tuple[str, str], ...]], ...] = (
    ("Django==5.2.19", 8_319_631, (
        ("django/conf/locale/de/LC_MESSAGES/django.po",
         "bee23320c466971b03e18d5ab9f5ce1d768adfab7c634d7096c871664fe51051"),
        ("django/contrib/admin/locale/de/LC_MESSAGES/django.po",
         "a6ce86e49bab1c0ff1de516ad3ef1e8eafc9aa5be24845b477d44dc15aee9229"),
        ("django/contrib/admin/locale/de/LC_MESSAGES/djangojs.po",
         "b5bdb96e8c4fae082a9c1ee60763398b267a08433cecf05935afc9cda397145e"),
        ("django/contrib/admindocs/locale/de/LC_MESSAGES/django.po",
         "b5590320f17fc186ff29a27b3c5f5c672049a18bba469ce7a0cf49224dd160de"),
        ("django/contrib/auth/locale/de/LC_MESSAGES/django.po",
         "ab6c0f9f2c7fc673048031a187e9f01f06f8cf5b73644ff778053a04edc8b6b1"),
        ("django/contrib/humanize/locale/de/LC_MESSAGES/django.po",
         "816dce7ce7e854cbe956e770821282633b642eb0883db6dcae266304d9d1c86a"),
        ("django/contrib/postgres/locale/de/LC_MESSAGES/django.po",
         "1a417ac0183b240bc007c604c703b1e21ce92ebd6bd8ae87b2f48b61fca88e8c"),
    )),
    ("django-allauth==65.22.1", 2_116_758, (
        ("allauth/locale/de/LC_MESSAGES/django.po",
         "7ee4ff86e7e283e5c82daff5af8cff79f9f5d04d9b3ac4fa2636957df93aa1ae"),
    )),
    ("django-cms==5.1.3", 3_562_685, (
        ("cms/locale/de/LC_MESSAGES/django.po",
         "4b43c781e4699406607eb3b658690b2005b5209c5d57df8ee62a1549707b1ac7"),
    )),
    ("django-oscar==4.2.1", 8_984_805, (
        ("oscar/locale/de/LC_MESSAGES/django.po",
         "df1c5ddb6390fb1902f38de74a2c82e9976601458cd1407dca13b3493cffaf32"),
    )),
    ("horizon==27.0.0", 5_297_721, (
        ("horizon/locale/de/LC_MESSAGES/django.po",
         "c5993c2cfdd202969f8ce771d4f3d897f655cabd85ecef3b1eb1589c74c274cf"),
        ("horizon/locale/de/LC_MESSAGES/djangojs.po",
         "94071b691469b1b17b08eb13fe8567a68db21aecdf548cb697861f96fc62d654"),
        ("openstack_auth/locale/de/LC_MESSAGES/django.po",
         "796031be7d20e1b8ab671383e1880c5e5a0d099985f1843bdebbe835dadbf32d"),
        ("openstack_dashboard/locale/de/LC_MESSAGES/django.po",
         "90455f33a05fa6c48f66e7e1c70839d9c7c472203e4d453c281ad431ff27ea69"),
        ("openstack_dashboard/locale/de/LC_MESSAGES/djangojs.po",
         "f3d703ef32e69703f899551d5d004951bcc33d39ba75ffcfec303e97a4e27b57"),
    )),
    ("indico==3.2.9", 30_004_029, (
        ("indico/translations/de_DE/LC_MESSAGES/messages-js.po",
         "ccfc8038413fef4dd5c18a743b1455d35579e9e73dfc0534bd3a7a7d8a21ae1b"),
        ("indico/translations/de_DE/LC_MESSAGES/messages-react.po",
         "77ec0d11a9132e2bdd4db53c8e2a81206fc688a38962186c362b9b22bb3a3b11"),
        ("indico/translations/de_DE/LC_MESSAGES/messages.po",
         "7979002075d553561c758e1261faafec60e595e05d9d00d9157ef44b4f8490c5"),
    )),
    ("wagtail==8.0.1", 9_841_588, (
        ("wagtail/admin/locale/de/LC_MESSAGES/django.po",
         "7f245eb685b1a95cf92bb675c4a7ca8ce3e7a6091b278a718981f59d26a3f04b"),
        ("wagtail/admin/locale/de/LC_MESSAGES/djangojs.po",
         "d741e5ff42c4ad6b89798984f2ae2e02da4161a6477a46ed7e31b7dd46d1024b"),
        ("wagtail/contrib/forms/locale/de/LC_MESSAGES/django.po",
         "2f372e90efc2fb4a1c32e43c64a00469a9675b67a2b741973a3344ce482f5ac1"),
        ("wagtail/contrib/redirects/locale/de/LC_MESSAGES/django.po",
         "1466bb7da0e399a4186741805b6def645eb43081078e34b214c3cff34b1c8d2a"),
        ("wagtail/contrib/search_promotions/locale/de/LC_MESSAGES/django.po",
         "5b985659c1df7a5a23b8c2c636904602ad1ba19a5ab787c94cfb13e95f9ee7b8"),
        ("wagtail/documents/locale/de/LC_MESSAGES/django.po",
         "3c433489a70ab562c00f7c066dd2bc05b6e15c5f5975e7e95a2e4ce4b189074b"),
        ("wagtail/images/locale/de/LC_MESSAGES/django.po",
         "d3ab606e3adce1146c889112493d2d0bedfbf8e9ad019154c4db47ab975cac9a"),
        ("wagtail/locale/de/LC_MESSAGES/django.po",
         "fc63f68d58d2d8034407788fc166ba64b3c66bd3c0ab9e0aa8d2967e7d0992b2"),
        ("wagtail/locales/locale/de/LC_MESSAGES/django.po",
         "8b9bd3f3335253ba5e697e6faa4d8f5840b7c8d314b3257e6b87dc14bebefb74"),
        ("wagtail/snippets/locale/de/LC_MESSAGES/django.po",
         "68798173c8840335f8d53cc7647d697a4dd1854e3dd90024c1c852cc4eb10c27"),
        ("wagtail/users/locale/de/LC_MESSAGES/django.po",
         "2f97b92bb7fd957afd775e3eae3c0bdee0846e6c5c5713b9107d2b3b94ce8fdc"),
    )),
)


def catalogue_name(requirement: str, member: str) -> str:
    """What a catalogue is called in the cache: `<application>--<its path, without what all of them have>`."""
    application = requirement.split("==")[0].lower()
    folders = [folder for folder in member.split("/") if folder not in ("locale", "translations", "LC_MESSAGES")]
    return f"{application}--{'-'.join(folders)}"
