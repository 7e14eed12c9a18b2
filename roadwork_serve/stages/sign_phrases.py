"""The usual phrases on signs of road work, by language.

Wording: MUTCD 2023 part 6 (temporary traffic control), the UK's Traffic Signs Manual chapter 8, and the common boards
of German, French, Spanish, Italian and Dutch works.
"""

from roadwork_serve.profiles.task import SignLanguage, SignMeaning

Phrases = dict[SignMeaning, tuple[str, ...]]

PHRASES: dict[SignLanguage, Phrases] = {
    "en-US": {
        "worker": (
            "MEN WORKING", "CREW WORKING", "PEOPLE WORKING", "WORKERS AHEAD", "WORKERS PRESENT", "FLAGGER",
            "FLAG PERSON", "SURVEY CREW", "MEN AT WORK",
        ),
        "closure": (
            "ROAD CLOSED", "LANE CLOSED", "LANES CLOSED", "STREET CLOSED", "SIDEWALK CLOSED", "BIKE LANE CLOSED",
            "SHOULDER CLOSED", "BRIDGE CLOSED", "RAMP CLOSED", "EXIT CLOSED",
        ),
        "detour": ("DETOUR",),
        "begin": (
            "ROAD WORK", "WORK ZONE", "UTILITY WORK", "SHOULDER WORK", "BRIDGE WORK", "STREET WORK",
            "ROAD CONSTRUCTION", "UNDER CONSTRUCTION", "CONSTRUCTION AHEAD", "CONSTRUCTION ZONE", "ONE LANE ROAD AHEAD",
            "BE PREPARED TO STOP",
        ),
    },
    "en-GB": {
        "worker": ("MEN AT WORK", "WORKERS IN ROAD", "WORKERS ON ROAD", "WORKERS AHEAD"),
        "closure": (
            "ROAD CLOSED", "ROAD AHEAD CLOSED", "LANE CLOSED", "LANES CLOSED", "LANE AHEAD CLOSED", "STREET CLOSED",
            "FOOTPATH CLOSED", "FOOTWAY CLOSED", "PAVEMENT CLOSED", "CYCLEWAY CLOSED", "BRIDGE CLOSED",
        ),
        "detour": ("DIVERSION", "DIVERTED TRAFFIC"),
        "begin": ("ROAD WORK", "STREET WORK", "BRIDGE WORK", "WORKS ACCESS", "WORKS TRAFFIC", "CONSTRUCTION AHEAD"),
    },
    "de": {
        "closure": ("STRASSE GESPERRT", "GEHWEG GESPERRT", "VOLLSPERRUNG"),
        "detour": ("UMLEITUNG",),
        "begin": ("BAUSTELLE", "BAUARBEITEN", "STRASSENARBEITEN"),
        "end": ("BAUSTELLENENDE", "UMLEITUNGSENDE"),
    },
    "es": {
        "worker": ("HOMBRES TRABAJANDO",),
        "closure": ("CARRETERA CORTADA", "CALLE CORTADA"),
        "detour": ("DESVIO",),
        "begin": ("EN OBRAS", "ZONA DE OBRAS", "PELIGRO OBRAS"),
    },
    "fr": {"closure": ("ROUTE BARREE", "RUE BARREE"), "detour": ("DEVIATION",), "begin": ("TRAVAUX",)},
    "it": {
        "closure": ("STRADA CHIUSA",),
        "detour": ("DEVIAZIONE",),
        "begin": ("LAVORI IN CORSO",),
        "end": ("FINE LAVORI", "FINE DEVIAZIONE"),
    },
    "nl": {
        "closure": ("WEG AFGESLOTEN",),
        "detour": ("OMLEIDING",),
        "begin": ("WERKZAAMHEDEN", "WERK IN UITVOERING"),
    },
}  # fmt: skip
#: Phrases that count only when the sign has hardly any other text: SMITH CONSTRUCTION is a company.
SHORT_PHRASES: dict[SignLanguage, Phrases] = {
    "en-US": {"worker": ("WORKERS",), "begin": ("CONSTRUCTION", "WORK AHEAD")},
    "en-GB": {"worker": ("WORKERS",), "begin": ("CONSTRUCTION", "WORK AHEAD")},
    "es": {"begin": ("OBRAS",)},
}
#: Advertising, permanent signs, and works that have not begun.
IGNORED_PHRASES = (
    "LOAN", "LOANS", "APP", "INSURANCE", "LAWYER", "LAWYERS", "ATTORNEY", "INJURY", "INJURED", "SALE", "HIRE",
    "RENTAL", "RENTALS", "JOBS", "CAREERS", "HIRING", "BOOTS", "WEAR", "CLOTHING", "SHOP", "STORE", "OUTLET",
    "WHEN FLASHING", "DUE TO START", "STARTS", "STARTING", "COMING SOON", "WILL BE",
)  # fmt: skip
