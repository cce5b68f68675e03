"""How the tasks of `tasks` are worded, and what their answers say: wordings, deeds, summaries, endings."""

# Kind of task -> ways to ask.
WORDINGS = {
    "tell": ("Tell a story about {about}.", "Tell me a story about {about}.", "Can you tell a story about {about}?",
             "I want a story about {about}.", "Write a story about {about}.", "Please tell a story about {about}."),
    "continue": ("Continue the story.", "How does the story go on?", "Go on with the story.", "Finish the story.",
                 "What happens next?", "Tell the rest of the story."),
    "who_has": ("Who has {thing} at the end?", "Who has {thing} now?", "Tell me who has {thing} now.",
                "In the end, who has {thing}?", "Who has got {thing} at the end?", "Say who has {thing} at the end.",
                "Do you know who has {thing} now?"),
    "where": ("Where is {who} at the end?", "Where is {who} now?", "Tell me where {who} is now.",
              "Say where {who} is at the end.", "Do you know where {who} is now?", "In the end, where is {who}?"),
    "another_ending": ("Give the story another ending: {wish}.", "Tell another ending, in which {wish}.",
                       "Let the story end like this: {wish}.", "Change the ending, so that {wish}.",
                       "Make it end so that {wish}.", "Tell the ending again, but {wish}."),
    "shorten": ("Tell the story in two sentences.", "Make it two sentences.", "Shorten the story to two sentences.",
                "What happens, in two sentences?", "Say in two sentences what happens.",
                "Tell it again in two sentences."),
    "felt": ("How did {who} feel at the end?", "What did {who} feel at the end?", "Tell me how {who} felt at the end.",
             "Say how {who} felt in the end.", "In the end, how did {who} feel?", "Do you know how {who} felt?"),
    "how_many": ("How many {what} does {who} have at the end?", "How many {what} are left for {who}?",
                 "How many {what} has {who} got now?", "Tell me how many {what} {who} has now.",
                 "Say how many {what} {who} has at the end.", "In the end, how many {what} does {who} have?"),
    "who_else": ("Who else is in the story?", "Who is in the story besides {who}?", "Name the other one in the story.",
                 "Tell me who else is in the story.", "Who is there besides {who}?",
                 "Say who is in the story with {who}."),
}

# Ways to ask who did something.
FRAMES = ("Who {did}?", "Tell me who {did}.", "Say who {did}.", "Do you know who {did}?", "Who was it who {did}?",
          "In the story, who {did}?", "Can you say who {did}?")

# Kind of event -> the role of who does it, and what was done, in words of the other roles.
DEEDS = {
    "ask_borrow": ("A", "wanted to borrow {T}"), "lend": ("A", "lent {T} to {B}"), "break_thing": ("A", "broke {T}"),
    "give_back": ("A", "gave {T} back"), "promise_bring": ("A", "promised to bring {T} to {B}"),
    "forget_promise": ("A", "forgot {T}"), "wait_in_vain": ("A", "waited for {T}"), "lose": ("A", "lost {T}"),
    "find": ("A", "found {T}"), "find_in_hiding": ("A", "found {T}"), "ask_seen": ("A", "asked {B} about {T}"),
    "hide_away": ("A", "hid"), "hide_game": ("A", "counted to {N}"), "seek_found": ("A", "found {B}"),
    "contest": ("A", "had {T} for a prize"), "win_near": ("A", "won {T}"), "win_over": ("A", "won {T}"),
    "count_jar": ("A", "counted {S}"), "challenge": ("A", "wanted to race {P}"), "win_race": ("A", "won the race"),
    "win_easily": ("A", "won the race"), "help_up": ("A", "helped {B} up"), "wind_takes": ("A", "lost {T}"),
    "chase": ("A", "ran after {T}"), "nest_in": ("C", "had moved into {T}"), "fog_falls": ("A", "got lost in the fog"),
    "sound_signal": ("A", "made a noise with {T}"), "follow_sound": ("A", "followed the sound of {T}"),
    "buy": ("A", "bought {T}"), "lend_money": ("A", "lent {B} some coins"), "pay_back": ("A", "paid {B} back"),
    "earn": ("A", "earned some coins"), "have_many": ("A", "had {S} first"), "want_some": ("B", "wanted some {S}"),
    "give_some": ("A", "gave {B} some {S}"), "stuck": ("A", "got stuck with {U}"), "last_pull": ("C", "got {U} free"),
    "give_up": ("A", "let {B} have {T}"), "claim": ("C", "came for {T}"), "agree_turns": ("A", "had {T} first"),
}

# Kinds of event after which somebody may be where no sentence says.
MOVES_UNSAID = frozenset({"take_home", "earn"})

# Kind of plot -> the kinds of ending that it can have.
ENDINGS = {
    "borrow_break_mend": ("end_mended",), "debt": ("end_paid",), "fog_home": ("end_fog",),
    "guess_jar": ("end_guessed",), "hide_and_seek": ("end_hide", "end_hide_treasure"),
    "lose_find": ("end_found", "end_returned"), "promise": ("end_promise_kept", "end_promise_late"),
    "race": ("end_won", "end_drew"), "same_thing": ("end_turns", "end_given_up", "end_claimed", "end_mended"),
    "share_out": ("end_counted",), "storm_carries": ("end_nest", "end_carried"), "stuck_cart": ("end_freed",),
}

# Kind of plot -> what a wish for a story says of it.
PLOT_PHRASES = {
    "borrow_break_mend": ("in which something breaks", "in which something is borrowed"),
    "debt": ("in which somebody needs coins", "in which something is bought"),
    "fog_home": ("in which there is fog", "in which somebody is lost in the fog"),
    "guess_jar": ("in which there is a prize", "in which everybody guesses a number"),
    "hide_and_seek": ("in which somebody hides", "in which they play hide-and-seek"),
    "lose_find": ("in which something is lost and found", "in which something gets lost"),
    "promise": ("in which there is a promise", "in which somebody is ill in bed"),
    "race": ("in which there is a race", "in which two run a race"),
    "same_thing": ("in which two want the same thing", "in which there is a quarrel about it"),
    "share_out": ("in which something is shared", "in which somebody shares"),
    "storm_carries": ("in which the wind takes something", "in which there is a strong wind"),
    "stuck_cart": ("in which something gets stuck", "in which they pull and pull"),
}

# Another ending, as it is asked for and as it is told.
LAST_WISHES = (
    ("{A} falls asleep", "{A} fell asleep"), ("{A} goes home", "{A} went home"),
    ("{A} sings a song", "{A} sang a song"), ("{A} eats a pie", "{A} ate a pie"),
    ("{A} is very happy", "{A} was very happy"), ("{A} is a little sad", "{A} was a little sad"),
    ("{A} runs away", "{A} ran away"), ("{A} sits in the grass", "{A} sat in the grass"),
    ("{A} climbs a tree", "{A} climbed a tree"), ("{A} has a new friend", "{A} had a new friend"),
    ("{A} goes to bed", "{A} went to bed"), ("{A} laughs about it", "{A} laughed about it"),
)

# Kind of ending -> the story in two sentences, in words of its events: kind_ROLE.
SUMMARIES = {
    "end_mended": ("{break_thing_A} broke {break_thing_T}.", "In the end it was mended."),
    "end_paid": ("{buy_A} bought {buy_T} with coins from {end_paid_B}.", "In the end {buy_A} paid them back."),
    "end_fog": ("{fog_falls_A} got lost in the fog.", "{end_fog_B} made a noise with {end_fog_T}."),
    "end_guessed": ("{end_guessed_A} and {end_guessed_B} guessed a number.", "{end_guessed_A} won {end_guessed_T}."),
    "end_hide": ("{end_hide_A} hid.", "{end_hide_B} found {end_hide_A} in the end."),
    "end_hide_treasure": ("{end_hide_treasure_A} hid and found {end_hide_treasure_T}.",
                          "{end_hide_treasure_B} found {end_hide_treasure_A} in the end."),
    "end_found": ("{end_found_A} lost {end_found_T}.", "In the end {end_found_A} found it."),
    "end_returned": ("{end_returned_A} lost {end_returned_T}.", "In the end {end_returned_A} found it."),
    "end_promise_kept": ("{end_promise_kept_B} promised to bring {end_promise_kept_T} to {end_promise_kept_A}.",
                         "In the end {end_promise_kept_A} got it."),
    "end_promise_late": ("{end_promise_late_B} promised to bring {end_promise_late_T} to {end_promise_late_A}.",
                         "It was late, but {end_promise_late_A} got it."),
    "end_won": ("{end_won_A} and {end_won_B} ran a race.", "{end_won_A} won."),
    "end_drew": ("{end_drew_A} and {end_drew_B} ran a race.", "Both of them won."),
    "end_turns": ("{end_turns_A} and {end_turns_B} both wanted {end_turns_T}.", "In the end they shared it."),
    "end_given_up": ("{end_given_up_A} and {end_given_up_B} both wanted {end_given_up_T}.",
                     "In the end {end_given_up_A} let {end_given_up_B} have it."),
    "end_claimed": ("{end_claimed_A} and {end_claimed_B} both wanted {end_claimed_T}.",
                    "In the end it was {end_claimed_C} who got it."),
    "end_counted": ("{give_some_A} had some {give_some_S}.", "{give_some_A} shared them with {give_some_B}."),
    "end_nest": ("The wind took {end_nest_T} from {end_nest_A}.", "In the end it was a nest for {end_nest_C}."),
    "end_carried": ("The wind took {end_carried_T} from {end_carried_A}.", "In the end {end_carried_A} got it back."),
    "end_freed": ("{end_freed_A} got stuck with {end_freed_U}.", "In the end {end_freed_C} got it free."),
}
