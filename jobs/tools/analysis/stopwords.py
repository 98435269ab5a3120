"""The words that reading a text needs to know: small words of a few languages, abbreviations, names of sections."""

from __future__ import annotations

_SMALL = {
    "en": """
        a about above after again against all also am an and any are as at be because been before being below between
        both but by can could did do does doing don't down during each either else etc even ever every few for from
        further get had has have having he her here hers him his how however i if in into is isn't it its it's itself
        just less like made make many may me might more most much must my neither no nor not now of off on once one only
        or other our out over own per same shall she should since so some such than that that's the their them then
        there these they this those three through thus to too two under until up upon us use used uses using very via
        was we well were what when where whether which while who whom whose why will with within without would yes yet
        you your""",
    "de": """
        aber alle als also am an auch auf aus bei bin bis bist da damit dann das dass dem den der des die dies diese
        dieser doch dort du durch ein eine einem einen einer eines er es für gegen hat hatte ich ihr im in ist ja jede
        kann kein keine man mehr mit muss nach nicht noch nun nur ob oder ohne sehr sein seine sich sie sind so über um
        und uns unter vom von vor war was wenn werden wie wir wird wo zu zum zur""",
    "fr": """
        alors au aux avec ce ces cette comme dans de des du elle en est et être eu fait il ils je la le les leur lui
        mais même ne nos notre nous on ont ou où par pas plus pour qu que qui sa sans se ses si son sont sur tout très
        tu un une vous y à été""",
    "es": """
        al algo como con cuando de del desde donde dos el ella en entre era es esta este esto fue ha hay la las lo los
        más me mi muy no nos o para pero por porque que qué se ser si sin sobre son su sus también tiene todo un una y
        ya""",
    "it": """
        al alla anche che chi ci come con cui da dal dalla dei del della delle di e è essere fra gli ha i il in io la le
        lo ma nel nella non o per perché più quando questa questo se si sia sono su sua suo tra un una uno""",
    "pt": """
        ao aos as com como da das de do dos e é ela ele em entre era essa este foi há isso já mais mas não na nas no nos
        o os ou para pela pelo por que quem se sem ser seu sua são também tem um uma""",
    "nl": """
        aan al als bij dan dat de der deze die dit door een en er had heeft het hij hoe ik in is je kan maar met na naar
        niet nog of om ook op over te tot uit van voor was wat we wel werd wij wordt ze zich zijn zo""",
}
STOP_WORDS = {language: frozenset(words.split()) for language, words in _SMALL.items()}
_ABBREVIATIONS = """
    al approx art bzw ca cf chap dept dr e.g ed eds eq eqs est etc fig figs hr i.e inc jr kap lit ltd max min mr mrs ms mt
    no nos nr op p.a pp prof ref refs resp sec sen sr st tab u.a u.k u.s usw vgl viz vol vs z.b"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
_SECTIONS = """
    abstract acknowledgements acknowledgments appendix background conclusion conclusions contents discussion findings introduction
    limitations methodology method methods overview recommendations references results summary"""
SECTIONS = frozenset(_SECTIONS.split())
