// Every text of the page, a table for each language. Knows words; must not know what they stand on.

const TEXTS = {
  en: {
    title: "manyheads: one encoder, many answers",
    skip: "Skip to the content",
    views: "Views",
    tabAsk: "Try it",
    tabFile: "Label a file",
    tabTasks: "Tasks",
    language: "Language",
    dark: "Dark colours",
    loading: "Loading…",
    retry: "Try again",

    modes: "What to read",
    modeText: "Text",
    modePair: "Two texts",
    modeQuestion: "Question",
    modeCandidates: "Candidates",
    text: "Text",
    textHint: "Type or paste a text",
    first: "First text",
    second: "Second text",
    question: "Question",
    passage: "Passage that holds the answer",
    query: "Question or beginning",
    candidates: "Candidates, one a line",
    characters: "{count} of {most} characters",
    examplesAre: "Examples",
    examples: "Examples to try",
    go: "Analyse",
    working: "Working…",
    curl: "Copy as curl",
    curlText: "The request",
    curlToken: "$TOKEN stands for your token.",
    copied: "Copied",
    notCopied: "Could not be copied; the command stands below.",
    needText: "Type a text first.",
    needBoth: "Both texts are needed.",
    needQuestion: "A question and a passage are needed.",
    needCandidates: "A text and at least two candidates are needed.",

    answers: "Answers",
    emptyTitle: "Every head answers at once",
    emptyText: "Type a text, or take an example. These tasks will answer:",
    took: "{count} answers in {ms} ms",
    tookOne: "1 answer in {ms} ms",
    arrived: "{count} answers have come.",
    kindClassification: "classification",
    kindRegression: "value",
    kindTagging: "entities",
    kindSpan: "question answering",
    kindChoice: "choice",
    kindRanking: "ranking",
    kindMlm: "masked words",
    kindNextSentence: "next sentence",
    calibrated: "calibrated",
    calibratedAbout: "Probabilities are calibrated: of answers with 80 % about 80 % are right.",
    showAll: "Show all {count}",
    showLess: "Show fewer",
    nothingFound: "Nothing was found in this text.",
    noAnswer: "The passage does not answer this.",
    noAnswerShort: "no answer",
    otherAnswers: "Possible answers",
    entity: "Text",
    label: "Label",
    probability: "Probability",
    truncated: "The text was cut: {count} tokens were not read. This task reads {most}.",
    truncatedOne: "The text was cut: 1 token was not read. This task reads {most}.",
    asTyped: "As typed",
    asRead: "As read, cleaned",
    why: "Which words moved it?",
    whyHide: "Hide",
    whyWorking: "Looking…",
    whyFor: "Why",
    whyRaised: "speaks for it",
    whyLowered: "speaks against it",
    whyNothing: "No word moved it.",
    whyRough: "The sum is not exact for this text; take it as a rough picture.",
    whyMost: "Strongest words",
    whyWord: "Word",
    whyEffect: "Effect",

    fileTitle: "Label a csv file",
    fileAbout: "The file comes back with the answers in columns of their own. It is read here, worked on, and not kept.",
    fileChoose: "Choose a csv file, or drop it here",
    fileHint: "UTF-8, with a header line, up to {most}",
    fileAnother: "{size} · choose another",
    task: "Task",
    column: "Column for {name}",
    fileProbabilities: "Add a column for each label's probability",
    filePreview: "The first rows of the file",
    fileResult: "The first labelled rows",
    fileGo: "Label the file",
    fileSending: "Sending and checking the file…",
    fileAt: "{done} of {all} rows",
    fileLeft: "about {time} left",
    seconds: "{count} s",
    minutes: "{count} min",
    progress: "Rows that are labelled",
    cancel: "Cancel",
    cancelled: "Cancelled after {done} of {all} rows.",
    cancelledEarly: "Cancelled before the first row.",
    fileDone: "{count} rows are labelled, in {time}.",
    fileSave: "Download",
    fileBroken: "The connection broke off after {done} of {all} rows. Nothing is kept; try again.",
    fileEmpty: "The file is empty.",
    fileNotText: "This file is not UTF-8 text. Save it as csv in UTF-8, then choose it again.",
    fileLarge: "The file has {size}; at most {most} are taken.",
    fileNoColumns: "The file has {found} columns; this task needs {needed}.",

    tasksTitle: "What is served here",
    name: "Name",
    kind: "Kind",
    reads: "Reads",
    labels: "Labels",
    maxLength: "Tokens",
    model: "Run",
    readsText: "a text",
    readsPair: "two texts",
    readsQuestion: "a question and a passage",
    readsCandidates: "a text and candidates",
    andMore: "and {count} more",
    limitsTitle: "Limits",
    limit_inputs: "Inputs in a request",
    limit_texts: "Texts in a request",
    limit_characters: "Characters of a text",
    limit_body: "Size of a request",
    limit_file: "Size of a file to label",
    limit_timeout: "Time until an answer",
    apiAbout: "The same over HTTP, for programs:",
    apiLink: "API description",

    tokenTitle: "A token is needed",
    tokenAbout: "This service asks for a token. It is kept in this tab only, until you close it.",
    token: "Token",
    tokenGo: "Continue",
    tokenWrong: "That is not the token of this service.",
    offline: "The service does not answer. Does it still run?",
    failed: "That did not work ({status}).",
    busy: "The service is busy. Try again in {seconds} s.",
  },
  zh: {
    title: "manyheads：一个编码器，多种回答",
    skip: "跳到正文",
    views: "视图",
    tabAsk: "试一试",
    tabFile: "标注文件",
    tabTasks: "任务",
    language: "语言",
    dark: "深色外观",
    loading: "正在加载…",
    retry: "重试",

    modes: "输入类型",
    modeText: "文本",
    modePair: "两段文本",
    modeQuestion: "问答",
    modeCandidates: "候选",
    text: "文本",
    textHint: "输入或粘贴一段文本",
    first: "第一段文本",
    second: "第二段文本",
    question: "问题",
    passage: "包含答案的段落",
    query: "问题或开头",
    candidates: "候选，每行一个",
    characters: "{count} / {most} 个字符",
    examplesAre: "示例",
    examples: "可以试用的示例",
    go: "分析",
    working: "处理中…",
    curl: "复制为 curl",
    curlText: "请求内容",
    curlToken: "$TOKEN 代表您的令牌。",
    copied: "已复制",
    notCopied: "无法复制，命令显示在下方。",
    needText: "请先输入文本。",
    needBoth: "两段文本都要填写。",
    needQuestion: "问题和段落都要填写。",
    needCandidates: "需要一段文本和至少两个候选。",

    answers: "回答",
    emptyTitle: "所有任务同时回答",
    emptyText: "输入文本，或选一个示例。以下任务会给出回答：",
    took: "{count} 个回答，用时 {ms} 毫秒",
    tookOne: "1 个回答，用时 {ms} 毫秒",
    arrived: "已得到 {count} 个回答。",
    kindClassification: "分类",
    kindRegression: "数值",
    kindTagging: "实体识别",
    kindSpan: "阅读理解",
    kindChoice: "选择",
    kindRanking: "排序",
    kindMlm: "掩码词",
    kindNextSentence: "下一句",
    calibrated: "已校准",
    calibratedAbout: "概率经过校准：标为 80% 的回答大约有 80% 是对的。",
    showAll: "显示全部 {count} 项",
    showLess: "收起",
    nothingFound: "这段文本中没有找到。",
    noAnswer: "段落中没有这个问题的答案。",
    noAnswerShort: "无答案",
    otherAnswers: "可能的答案",
    entity: "文本",
    label: "标签",
    probability: "概率",
    truncated: "文本被截断：有 {count} 个词元没有读入，该任务最多读 {most} 个。",
    truncatedOne: "文本被截断：有 1 个词元没有读入，该任务最多读 {most} 个。",
    asTyped: "原文",
    asRead: "清洗后（模型读到的）",
    why: "哪些词影响了结果？",
    whyHide: "收起",
    whyWorking: "分析中…",
    whyFor: "解释",
    whyRaised: "支持",
    whyLowered: "反对",
    whyNothing: "没有词影响结果。",
    whyRough: "这段文本的总和并不精确，仅供大致参考。",
    whyMost: "影响最大的词",
    whyWord: "词",
    whyEffect: "影响",

    fileTitle: "标注 csv 文件",
    fileAbout: "文件会原样返回，并在各行后面加上回答的列。服务器只处理，不保存。",
    fileChoose: "选择 csv 文件，或拖到这里",
    fileHint: "UTF-8 编码，首行为列名，最大 {most}",
    fileAnother: "{size}，点击可更换",
    task: "任务",
    column: "“{name}”对应的列",
    fileProbabilities: "为每个标签的概率各加一列",
    filePreview: "文件的前几行",
    fileResult: "标注结果的前几行",
    fileGo: "开始标注",
    fileSending: "正在发送并检查文件…",
    fileAt: "第 {done} 行，共 {all} 行",
    fileLeft: "大约还需 {time}",
    seconds: "{count} 秒",
    minutes: "{count} 分钟",
    progress: "已标注的行",
    cancel: "取消",
    cancelled: "已取消：完成 {done} 行，共 {all} 行。",
    cancelledEarly: "已取消，尚未开始标注。",
    fileDone: "已标注 {count} 行，用时 {time}。",
    fileSave: "下载",
    fileBroken: "连接在第 {done} 行（共 {all} 行）处中断，没有保存任何内容，请重试。",
    fileEmpty: "文件是空的。",
    fileNotText: "文件不是 UTF-8 文本。请另存为 UTF-8 编码的 csv，再重新选择。",
    fileLarge: "文件大小为 {size}，最多接受 {most}。",
    fileNoColumns: "文件有 {found} 列，该任务需要 {needed} 列。",

    tasksTitle: "这里提供的任务",
    name: "名称",
    kind: "类型",
    reads: "输入",
    labels: "标签",
    maxLength: "词元数",
    model: "模型",
    readsText: "一段文本",
    readsPair: "两段文本",
    readsQuestion: "问题和段落",
    readsCandidates: "文本和候选",
    andMore: "等，另有 {count} 个",
    limitsTitle: "限制",
    limit_inputs: "每次请求的输入数",
    limit_texts: "每次请求的文本数",
    limit_characters: "每段文本的字符数",
    limit_body: "请求大小",
    limit_file: "待标注文件的大小",
    limit_timeout: "等待回答的时间",
    apiAbout: "程序可以通过 HTTP 使用同样的功能：",
    apiLink: "接口说明",

    tokenTitle: "需要令牌",
    tokenAbout: "这个服务需要令牌。令牌只保存在当前标签页中，关闭后即清除。",
    token: "令牌",
    tokenGo: "继续",
    tokenWrong: "令牌不正确。",
    offline: "服务没有响应。它还在运行吗？",
    failed: "没有成功（{status}）。",
    busy: "服务繁忙，请在 {seconds} 秒后重试。",
  },
};

const EXAMPLES = {
  en: {
    text: [
      ["A warm film", "A warm, funny film with a superb cast, and an ending that stays with you."],
      ["A complaint", "The pump broke after one day, and nobody at Harlow & Sons in Leeds ever called me back."],
      ["A news line", "Maria Lindqvist of the Nordic Council met the mayor of Porto on Monday to sign the harbour treaty."],
    ],
    pair: [
      ["The same?", "How do I reset my password?", "I cannot remember my password. What should I do?"],
      ["Does it follow?", "Two children are playing football in the park.", "Nobody is outside."],
    ],
    question: [
      ["A lighthouse", "When was the lighthouse lit for the first time?",
        "The lighthouse of Skarn stands on a rock north of the harbour. It was built by Ingrid Holm and lit for the first time in 1874. Its lamp was moved by clockwork until 1932."],
      ["No answer", "Who paints the lighthouse?",
        "The lighthouse of Skarn stands on a rock north of the harbour. It was built by Ingrid Holm and lit for the first time in 1874."],
    ],
    candidates: [
      ["Boiling an egg", "How long does a soft egg take?",
        ["A soft egg takes about six minutes in boiling water.", "Eggs are sold by the dozen.", "The film is two hours long."]],
    ],
  },
  zh: {
    text: [
      ["影评", "这部电影温暖又有趣，演员出色，结尾让人久久难忘。"],
      ["投诉", "水泵用了一天就坏了，打电话给客服也没有人回复，太失望了！"],
      ["微博", "轉發微博：今天在上海和@小林 一起去看了展覽，太好看了！[心] http://t.cn/abc123"],
    ],
    pair: [
      ["意思相同吗？", "怎么重置密码？", "我忘了密码，该怎么办？"],
      ["能推出吗？", "两个孩子在公园里踢足球。", "外面没有人。"],
    ],
    question: [
      ["灯塔", "灯塔第一次点亮是在哪一年？", "斯卡恩灯塔位于港口以北的岩石上，由英格丽德·霍尔姆建造，1874年第一次点亮。直到1932年，灯都由发条带动。"],
    ],
    candidates: [
      ["煮鸡蛋", "溏心蛋要煮多久？", ["溏心蛋在沸水中大约煮六分钟。", "鸡蛋按打出售。", "这部电影长两个小时。"]],
    ],
  },
};

let now = document.documentElement.lang.startsWith("zh") ? "zh" : "en";

/** The language of the page, `en` or `zh`. */
export const language = () => now;

/** Choose the language, and keep it. */
export function speak(chosen) {
  now = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  try { localStorage.setItem("manyheads.language", chosen); } catch { /* not kept then */ }
}

/** The text of a key, with `{name}` filled in. */
export function say(key, values = {}) {
  const text = TEXTS[now][key];
  if (text === undefined) throw new Error(`no text ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Whether there is a text of this key. */
export const known = (key) => key in TEXTS[now];

/** Put all texts of the skeleton in the language. */
export function translate(root = document) {
  for (const one of root.querySelectorAll("[data-text]")) one.textContent = say(one.dataset.text);
  for (const one of root.querySelectorAll("[data-label]")) one.setAttribute("aria-label", say(one.dataset.label));
  for (const one of root.querySelectorAll("[data-title]")) one.title = say(one.dataset.title);
  document.title = say("title");
}

// What the service calls a sort of problem, by the last part of the document's `type`. Its own words are English.
const PROBLEMS = {
  zh: {
    malformed: "请求无法读取",
    unauthorized: "需要令牌",
    "not-found": "这里什么也没有",
    method: "不接受这种方法",
    slow: "请求发送得太慢",
    "too-large": "超过了一次能接收的量",
    "media-type": "不接受这种媒体类型",
    invalid: "内容不符合要求",
    "unknown-task": "没有这个任务",
    "queue-full": "等待的请求太多",
    headers: "请求头太长",
    failed: "处理时出错",
    "not-offered": "此服务不提供这项功能",
    stopping: "服务正在停止",
    timeout: "用时太久",
  },
};

/** A problem document's sort and detail in the language; in the service's own, the detail says it all. */
export function trouble({ type = "", detail = "" }) {
  const sort = PROBLEMS[now]?.[type.split("#").pop()];
  return sort && detail ? `${sort}：${detail}` : sort ?? detail;
}

/** The examples of a way to ask, in the language. */
export const examples = (mode) => EXAMPLES[now][mode];

const locale = () => (now === "zh" ? "zh-CN" : "en-GB");
export const number = (value, digits = 0) =>
  value.toLocaleString(locale(), { maximumFractionDigits: digits });
/** A number by its first two digits that matter, with its sign. */
export const effect = (value) =>
  (value > 0 ? "+" : "−") + Math.abs(value).toLocaleString(locale(), { maximumSignificantDigits: 2 });
export const percent = (share) => {
  // What is nearly sure is not told as sure.
  const digits = share > 0.9995 || share < 0.0005 ? 2 : 1;
  const bounded = Math.min(share < 1 ? 0.9999 : 1, Math.max(share > 0 ? 0.0001 : 0, share));
  return bounded.toLocaleString(locale(), { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: digits });
};
export function bytes(count) {
  for (const [size, unit] of [[2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (count >= size) return `${number(count / size, 1)} ${unit}`;
  return `${number(count)} B`;
}
export const duration = (seconds) => seconds < 90
  ? say("seconds", { count: number(seconds, seconds < 10 ? 1 : 0) })
  : say("minutes", { count: number(seconds / 60, 0) });

export { PROBLEMS, TEXTS };
