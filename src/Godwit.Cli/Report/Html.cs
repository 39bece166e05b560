using System.Net;

namespace Godwit.Cli;

/// <summary>Text inside a page.</summary>
internal static class Html
{
    /// <summary>
    /// Escaped for elements and for quoted attributes. What comes from a monitor is somebody else's; control characters, which no page
    /// may hold, become marks.
    /// </summary>
    public static string Text(string text) =>
        WebUtility.HtmlEncode(string.Concat(text.Select(c => char.IsControl(c) || char.IsSurrogate(c) || c >= '\uFFFE' ? '\uFFFD' : c)));
}
