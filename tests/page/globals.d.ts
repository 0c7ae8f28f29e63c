/** Swagger UI's bundle, a plain script that leaves one name. */
declare const SwaggerUIBundle: (options: Record<string, unknown>) => unknown;
